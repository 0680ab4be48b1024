"""The commands, as `jaxsd` runs them: python -m jaxsd generate --audio dog.wav"""

from jaxsd.commands import main

if __name__ == "__main__":
    main()

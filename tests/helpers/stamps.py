"""A manifest of the recordings of Debian's tuxpaint-stamps-default: python -m tests.helpers.stamps FOLDER > clips.csv

FOLDER is the unpacked package's usr/share/tuxpaint/stamps. Every recording is a row, with the image of its stamp, which
may be SVG or missing, and the stamp's description in the language of the recording, or else in English.
"""

import csv
import re
import sys
from pathlib import Path


def main():
    folder = Path(sys.argv[1]).resolve()
    table = csv.writer(sys.stdout)
    table.writerow(("audio", "image", "text", "group"))
    for sound in sorted(folder.rglob("*.ogg")):
        stem, language = re.fullmatch(r"(.*?)(?:_desc)?(?:_([a-z]{2,3}(?:_[A-Z]{2})?))?", sound.stem).groups()
        stamp = sound.with_name(stem)
        image = next((one for suffix in (".png", ".svg") if (one := Path(f"{stamp}{suffix}")).is_file()), None)
        lines = Path(f"{stamp}.txt").read_text("utf-8").splitlines() if Path(f"{stamp}.txt").is_file() else []
        texts = dict(line.split(".utf8=", 1) for line in lines if ".utf8=" in line)
        text = texts.get(language) or (lines[0].strip() if lines else "")
        table.writerow((sound, image or f"{stamp}.png", text, stamp.relative_to(folder)))


if __name__ == "__main__":
    main()

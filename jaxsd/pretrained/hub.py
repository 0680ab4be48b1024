"""Folders of the Hugging Face hub, downloaded as far as they are needed."""

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
WRITTEN_TO = ("runs", "out", "data")  # where the commands write: a name that begins so is a path, there or not


def fetch(source: str | Path, patterns: Iterable[str], revision: str | None = None) -> Path:
    """The folder `source`, or else the hub's repository of that id in the cache, with the files of these globs.

    A name whose first part is a folder here, or one that the commands write to, is taken for a path and not looked up
    on the hub. HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean to huggingface_hub. Raises FileNotFoundError in
    one sentence where there is no such folder or repository, or it cannot be had, and ValueError for a revision of a
    folder.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ValueError(f"{source} is a folder here, which has no revision {revision}; leave the revision out")
        return Path(source)
    parent = Path(source).parent
    if not REPOSITORY.fullmatch(str(source)) or parent.is_dir() or parent.name in WRITTEN_TO:
        raise FileNotFoundError(_no_such_folder(Path(source)))
    from huggingface_hub import constants, errors, snapshot_download  # takes a while: only where it is needed

    asked = f"{source} (revision {revision})" if revision else str(source)
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(patterns)))
    except errors.GatedRepoError:
        reason = f"is gated: accept its terms at {constants.ENDPOINT}/{source} and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = "is no folder here and no repository on the hub that can be seen; a private one needs HF_TOKEN"
    except errors.RevisionNotFoundError:
        reason = "has no such revision"
    except errors.LocalEntryNotFoundError:
        offline = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
        reason = f"is no folder here, not whole in the cache, and cannot be downloaded: {offline}"
    except RuntimeError:  # from Path.expanduser
        reason = "cannot be downloaded: there is no home folder to keep it in; HF_HOME names another one"
    except (errors.HfHubHTTPError, OSError) as error:
        first = str(error).strip().split(os.linesep)[0]
        reason = f"cannot be downloaded: {first or type(error).__name__}"
    raise FileNotFoundError(f"{asked} {reason}")


def _no_such_folder(path: Path) -> str:
    """The sentence about a path that is not there, with the name there that is most like it."""
    if path.is_file():
        return f"{path}: a file where a folder is needed"
    if not REPOSITORY.fullmatch(str(path)):
        return f"{path}: no such file or folder, and no Hugging Face repository can be named so; the model toy ships"
    if not path.parent.is_dir():
        return f"{path}: no such folder"
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    alike = difflib.get_close_matches(path.name, names, n=1)
    return f"{path}: no such folder" + (f"; did you mean {path.parent / alike[0]}?" if alike else f" in {path.parent}")


def find_cached(source: str, files: Iterable[str]) -> Path | None:
    """The folder in the cache of a repository of which one of `files` has been downloaded, or None."""
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        path = try_to_load_from_cache(source, file)
        if isinstance(path, str):
            return Path(path).parent
    return None

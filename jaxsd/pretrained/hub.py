"""Folders of the Hugging Face hub, downloaded as far as they are needed."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def fetch(source: str | Path, patterns: Iterable[str], revision: str | None = None) -> Path:
    """The folder `source`, or else the hub's repository of that id in the cache, with the files of these globs.

    HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean to huggingface_hub. Raises FileNotFoundError in one
    sentence where there is no such folder or repository, or it cannot be had.
    """
    if Path(source).is_dir():
        return Path(source)
    if not REPOSITORY.fullmatch(str(source)):
        raise FileNotFoundError(f"{source}: no such folder, and no Hugging Face repository can be named so")
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
    except (errors.HfHubHTTPError, OSError) as error:
        first = str(error).strip().split(os.linesep)[0]
        reason = f"cannot be downloaded: {first or type(error).__name__}"
    raise FileNotFoundError(f"{asked} {reason}")

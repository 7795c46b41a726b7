"""The hub's, the network's and the file system's errors while loading, as one sentence each."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backend.device.availability import hub_answers
from backend.errors import ModelUnavailableError, OutOfMemoryError
from backend.message import literal
from backend.models import ModelSpec


def map_load_errors(spec: ModelSpec, load: Callable[[], Any]) -> Any:
    """`load()`.

    Raises:
        ModelUnavailableError: the weights cannot be had, with a sentence why.
    """
    from huggingface_hub import errors as kinds

    try:
        return load()
    except kinds.GatedRepoError as error:
        raise ModelUnavailableError(
            "{model} asks everybody to accept its licence first.",
            "Do so on its page on the hub ({repository}), set HF_TOKEN, and start again.",
            model=spec.title_message,
            repository=spec.repository,
        ) from error
    except kinds.RepositoryNotFoundError as error:
        raise ModelUnavailableError(
            "{model} was not found on the hub ({repository}).",
            "It may have moved, or HF_TOKEN may be wrong. Please choose the built-in model, or try again later.",
            model=spec.title_message,
            repository=spec.repository,
        ) from error
    except kinds.RevisionNotFoundError as error:
        raise ModelUnavailableError(
            "The version of {model} that this app is pinned to is no longer on the hub ({repository}).",
            "Pin the present ones with python -m backend.models --pin.",
            model=spec.title_message,
            repository=spec.repository,
        ) from error
    except (OSError, kinds.HfHubHTTPError) as error:
        raise _unavailable(spec, error) from error


def _unavailable(spec: ModelSpec, error: Exception) -> ModelUnavailableError:
    """`error` in words. diffusers wraps the hub's and the disk's errors, so their causes count as well."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return ModelUnavailableError(
                "The disk is full, so {model} could not be stored.",
                "Make room, or set HF_HOME to a folder on another disk, and start again.",
                model=spec.title_message,
            )
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status == 401:
            return ModelUnavailableError(
                "The model hub does not accept this token.",
                "Please set HF_TOKEN to a valid one, or unset it.",
            )
        if status == 429:
            return ModelUnavailableError(
                "The model hub is asked too often just now.", "Please try again in a few minutes."
            )
    beside = Path(spec.repository).with_suffix("")
    if spec.is_checkpoint and not beside.is_dir() and not hub_answers():
        return ModelUnavailableError(
            "{model} is a single file with weights only; its configs and tokenizer come from the model hub, "
            "which cannot be reached.",
            "Put them into a folder {folder} in diffusers' format, or try again later.",
            model=spec.title_message,
            folder=str(beside),
        )
    if spec.is_local:
        return ModelUnavailableError(
            "The files of {model} in {folder} are missing or damaged.",
            literal(str(error)[:200]),
            model=spec.title_message,
            folder=spec.repository,
        )
    return ModelUnavailableError(
        "{model} is not on this computer yet, and the model hub cannot be reached.",
        "Please choose the built-in model, or try again later.",
        model=spec.title_message,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__


def map_out_of_memory(spec: ModelSpec, load: Callable[[], Any]) -> Any:
    """`load()`.

    Raises:
        OutOfMemoryError: an allocator, or the system, had no room.
    """
    from backend.vae.base import clear_traceback_frames, is_out_of_memory

    try:
        return load()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error) and getattr(error, "errno", None) != errno.ENOMEM:
            raise
        clear_traceback_frames(error)
        raise OutOfMemoryError(
            "There was not enough memory to load {model}.",
            "Please choose a smaller model, or close other programs.",
            model=spec.title,
        ) from error

"""The hub's, the network's and the file system's errors while downloading or loading, as one sentence each."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any, Literal

from backend.device.hub import config_files, configs_beside, is_complete, network_error
from backend.errors import ModelUnavailableError, OutOfMemoryError
from backend.message import literal
from backend.models import ModelSpec

Kind = Literal["gated", "missing", "revision", "token", "often", "disk", "damaged", "network"]


class DamagedError(OSError):
    """What arrived is not what the hub says it should be, also when it was asked for again."""


def kind_of(error: BaseException) -> Kind | None:
    """What an error of the hub, the network or the disk means; None for any other.

    diffusers wraps the hub's and the disk's errors, so their causes count as well.
    """
    from huggingface_hub import errors as kinds

    by_class: tuple[tuple[type[BaseException], Kind], ...] = (
        (kinds.GatedRepoError, "gated"),
        (kinds.RepositoryNotFoundError, "missing"),
        (kinds.RevisionNotFoundError, "revision"),
        (DamagedError, "damaged"),
    )
    for cause in _causes(error):
        for kind_class, kind in by_class:
            if isinstance(cause, kind_class):
                return kind
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk"
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status in (401, 429):
            return "token" if status == 401 else "often"
    return "network" if isinstance(error, (OSError, network_error())) else None


def unavailable(spec: ModelSpec, kind: Kind) -> ModelUnavailableError:
    """Why a model cannot be had from the hub, and what to do about it."""
    model, repository = spec.title_message, spec.repository
    match kind:
        case "gated":
            return ModelUnavailableError(
                "{model} asks everybody to accept its licence first.",
                "Do so on its page on the hub ({repository}), set HF_TOKEN, and start again.",
                model=model,
                repository=repository,
            )
        case "missing":
            return ModelUnavailableError(
                "{model} was not found on the hub ({repository}).",
                "It may have moved, or HF_TOKEN may be wrong. Please choose the built-in model, or try again later.",
                model=model,
                repository=repository,
            )
        case "revision":
            return ModelUnavailableError(
                "The version of {model} that this app is pinned to is no longer on the hub ({repository}).",
                "Pin the present ones with python -m backend.models --pin.",
                model=model,
                repository=repository,
            )
        case "token":
            return ModelUnavailableError(
                "The model hub does not accept this token.",
                "Please set HF_TOKEN to a valid one, or unset it.",
            )
        case "often":
            return ModelUnavailableError(
                "The model hub is asked too often just now.", "Please try again in a few minutes."
            )
        case "disk":
            return ModelUnavailableError(
                "The disk is full, so {model} could not be stored.",
                "Make room, or set HF_HOME to a folder on another disk, and start again.",
                model=model,
            )
        case "damaged":
            return ModelUnavailableError(
                "What arrived of {model} was damaged on the way, twice.",
                "Please try again later; a proxy or a virus scanner between here and the hub may change files.",
                model=model,
            )
    if config_files(spec) is not None:
        return ModelUnavailableError(
            "{model} is a single file with weights only; its configs and tokenizer come from the model hub, "
            "which cannot be reached.",
            "Put them into a folder {folder} in diffusers' format, or try again later.",
            model=model,
            folder=str(configs_beside(spec)),
        )
    return ModelUnavailableError(
        "{model} is not on this computer yet, and the model hub cannot be reached.",
        "Please choose the built-in model, or try again later.",
        model=model,
    )


def map_load_errors(spec: ModelSpec, load: Callable[[], Any]) -> Any:
    """`load()`.

    Raises:
        ModelUnavailableError: the weights cannot be had, with a sentence why.
    """
    try:
        return load()
    except Exception as error:
        kind = kind_of(error)
        if kind is None:
            raise
        raise _local_failure(spec, error) if kind == "network" else unavailable(spec, kind) from error


def _local_failure(spec: ModelSpec, error: Exception) -> ModelUnavailableError:
    """Files that are missing or cannot be read."""
    configs = config_files(spec)
    if spec.is_local and (configs is None or is_complete(configs)):
        return ModelUnavailableError(
            "The files of {model} in {folder} are missing or damaged.",
            literal(str(error)[:200]),
            model=spec.title_message,
            folder=spec.repository,
        )
    return unavailable(spec, "network")


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
            model=spec.title_message,
        ) from error

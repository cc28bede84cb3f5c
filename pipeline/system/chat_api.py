"""What servers of the OpenAI-compatible chat API say, and how: pure reading, shared by teachers and the evaluation lab.

Servers differ in small things: where a thinking model's thought stands, which sampling fields they take, and whether an error
comes with a status of its own. What a caller does about it is the caller's; nothing here sends anything.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

DENIED = (403, 451)
"""A wrong key for every request, or a moderation's word on one of them."""
OPTIONAL = ("temperature", "top_p", "seed")
"""Fields of a request that can be left out where a server takes none."""
MAX_TOKENS = "max_tokens"
RENAMED = {MAX_TOKENS: "max_completion_tokens"}
"""Fields that some servers know by another name."""
_NOT_TAKEN = re.compile(
    r"unsupported|not support|only support|unrecogni[sz]ed|unknown|unexpected|not (?:permitted|allowed)|extra[_ ]|"
    r"deprecated|instead|only the default",
    re.IGNORECASE,
)
_NOT_BOTH = re.compile(r"cannot both be|can't both be|only one of|mutually exclusive", re.IGNORECASE)
_BROKEN_OFF = ("abort", "error")
"""Why servers say that a reply ended whose rest they failed to write: SGLang and vLLM abort, OpenRouter passes on an error."""
_UNSEEN = "\ufeff\u200b\u2060"
_VERSION = re.compile(r"/v\d+\w*(/|$)")


class ErrorReply(ValueError):
    """A reply with status 200 that is an error. `status` is the one it names, 0 when it names none."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def read_choice(completion: Any) -> tuple[str, str, dict[str, Any]]:
    """Return (text, thought, choice) of the first choice of a completion.

    Text is empty where the server says null (a thinking model that was cut off). The thought is what stands in
    ``reasoning_content`` or ``reasoning`` beside the text, or in parts of type `thinking` within it; empty when there is none.

    Raises:
        ErrorReply: when it is an error in the place of a completion, or the server broke it off.
        ValueError, TypeError, LookupError: when it is no completion.
    """
    if isinstance(completion, Mapping) and not completion.get("choices"):
        error = completion.get("error") or (completion if completion.get("object") == "error" else None)
        if error:
            raise ErrorReply(_words(error), _status(error))
    choice = completion["choices"][0]
    broken = isinstance(choice, Mapping) and choice.get("finish_reason") in _BROKEN_OFF
    if isinstance(choice, Mapping) and choice.get("error") and (broken or not choice.get("message", {}).get("content")):
        raise ErrorReply(_words(choice["error"]), _status(choice["error"]))
    if broken:
        # A part of a reply is none, and what was said so far may even be well formed.
        raise ErrorReply(f"the server broke its reply off (finish_reason {choice['finish_reason']})", 0)
    message = choice["message"]
    content, thought = message["content"], ""
    if isinstance(content, list):
        thought = "".join(_part(part.get("thinking")) for part in content if part.get("type") == "thinking")
        content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
    content = content or ""
    if not isinstance(content, str):
        raise TypeError(f"content is a {type(content).__name__}")
    for name in ("reasoning_content", "reasoning"):
        found = message.get(name)
        if not thought and isinstance(found, str):
            thought = found
    return clean(content), clean(thought), choice


def data_url(data: bytes, kind: str) -> str:
    """Return a picture's bytes as a request carries them; `kind` is the image type: jpeg, png, bmp."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def clean(text: str) -> str:
    """Return `text` without lone surrogates, which JSON can carry and files cannot, and unseen signs at its ends."""
    return text.encode("utf-8", "replace").decode().strip(_UNSEEN)


def fields_not_taken(message: str, sent: Iterable[str]) -> set[str]:
    """Return the fields of `sent` that a server refuses as such, by its words; those to leave out or to rename.

    A value that is too large is no such case: its cure is another value. Of temperature and top_p where it takes but one,
    temperature stays.
    """
    known = [name for name in sent if name in (*OPTIONAL, *RENAMED)]
    named = {name for name in known if re.search(rf"(?<!\w){name}(?!\w)", message)}
    if _NOT_TAKEN.search(message):
        return named
    return {"top_p"} if _NOT_BOTH.search(message) and {"temperature", "top_p"} <= named else set()


def adapted(body: Mapping[str, Any], not_taken: Iterable[str]) -> dict[str, Any]:
    """Return a request's fields in the form that a server takes: without, or under another name."""
    refused = set(not_taken)
    return {RENAMED.get(name, name) if name in refused else name: value for name, value in body.items()
            if name not in refused or name in RENAMED}  # fmt: skip


def address_hint(url: str, status: int) -> str:
    """Return a hint for an address that has no ``/v1`` and answers like something else; empty where there is nothing to say."""
    if status not in (200, 404, 405) or _VERSION.search(urlsplit(url).path):
        return ""
    return f" (is /v1 missing? most servers want {url.rstrip('/')}/v1)"


def _words(error: Any) -> str:
    if isinstance(error, Mapping):
        error = error.get("message") or error
    return str(error)


def _status(error: Any) -> int:
    code = error.get("code") or error.get("status") if isinstance(error, Mapping) else None
    try:
        status = int(code)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0
    return status if 400 <= status < 600 else 0


def _part(thinking: Any) -> str:
    if isinstance(thinking, list):
        return "".join(str(part.get("text", "")) for part in thinking)
    return str(thinking or "")

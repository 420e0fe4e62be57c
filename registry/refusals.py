"""Why a bucket could not be asked, in plain words: what its server answered, or what is wrong on the way.

The client's own error quotes the whole request over many lines. Only the status, the code and the message
of the server's answer are taken from it, and nothing that is a credential.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import NamedTuple

from timberline.registry.account import HINT_ACCOUNT

NO_ACCOUNT = "no account was found."

# Errors of the client; by their names, so that this can be imported where there is no client.
_REFUSALS = {"PermissionDeniedError", "UnauthenticatedError"}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_NAME = re.compile(r'Path "(.*?)"(?::| contained)', re.DOTALL)
_MESSAGE_CHARACTERS = 200
# Of a virtual machine's metadata service.
_MACHINE = "/latest/api/token"
# Amazon answers 400 to what is wrong with the account's keys, and to a wrong region.
_ACCOUNT_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
_REGION_CODES = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
_FULL = re.compile(r"(?i)no (free|writable|space)|full|quota|capacity|insufficient ?storage|507")
_HINT_BUCKET = "The bucket has to be there: create it, or correct its name, AWS_ENDPOINT_URL or AWS_REGION."
_HINT_WAY = "Check the network, and AWS_ENDPOINT_URL and AWS_REGION, by which it is found."
_HINT_TLS = (
    "If the server speaks no TLS, set AWS_ENDPOINT_URL=http://…; if its certificate is of your own "
    "authority, set AWS_CA_BUNDLE to a file with that."
)
# What the client's error has of its cause → what it is in words, what to do.
_CAUSES = (
    (("ConnectionRefused", "Connection refused"), "nobody listens there", _HINT_WAY),
    (("dns error", "failed to lookup", "Name or service"), "there is no host of that name", _HINT_WAY),
    (("certificate", "InvalidMessage", "UnknownIssuer", "Tls", "rustls"), "TLS cannot be spoken", _HINT_TLS),
    (("TimedOut", "Timeout", "timed out"), "it did not answer in time", _HINT_WAY),
    (("NetworkUnreachable", "HostUnreachable", "unreachable"), "it cannot be reached", _HINT_WAY),
)


class BucketError(OSError):
    """An error of a bucket: without the number that those of a disk begin with."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class LostError(BucketError, ConnectionError):
    """No answer, or one that says that the server cannot do it now.

    ``is_answered`` says that the server did answer: what was asked is not being done any more.
    """

    is_answered = False

    def replace(self, old: str, new: str) -> LostError:
        """The same error with another text."""
        return _lose(str(self.strerror).replace(old, new), self.filename, is_answered=self.is_answered)


class RefusedError(BucketError, PermissionError):
    """The account is refused, or there is none."""


class MissingError(BucketError, FileNotFoundError):
    """There is no such bucket."""


class WrongNameError(BucketError):
    """A key that the client cannot list."""


class _Answer(NamedTuple):
    """What the server said; ``status`` is 0 where it said nothing."""

    status: int
    code: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (str(self.status), self.code, self.message)))


def explain(error: Exception, where: str, secrets: Sequence[str] = (), *, more: str = "") -> OSError:
    """The error to raise for one of the client.

    Args:
        where: the URL that was asked for.
        secrets: what must not be quoted.
        more: what follows from it where the outcome is not known.
    """
    if isinstance(error, BucketError):
        return error
    text = str(error)
    answer = _read_answer(text, secrets)
    kind = type(error).__name__
    if kind in _REFUSALS or _is_refusal(answer):
        return RefusedError(errno.EACCES, _describe_refusal(answer, text), where)
    if kind == "InvalidPathError":
        name = found[1][:80] if (found := _NAME.search(text)) else ""
        what = f"has a key that cannot be listed: {name!r}. Remove that object: it is none of a registry's."
        return WrongNameError(errno.EINVAL, what, where)
    if answer.code in _REGION_CODES or answer.status == 301 or "redirect" in text.partition("\n")[0]:
        return _lose(f"is in another region ({answer}). Set AWS_REGION to it.", where, is_answered=True)
    if answer.code == "NoSuchBucket" or answer.status == 404:
        return MissingError(errno.ENOENT, f"no such bucket. {_HINT_BUCKET}", where)
    what = " ".join(filter(None, (_describe(answer, text), more)))
    return _lose(what, where, is_answered=answer.status > 0)


def _lose(what: str, where: str, *, is_answered: bool) -> LostError:
    lost = LostError(errno.EIO, what, where)
    lost.is_answered = is_answered
    return lost


def _is_refusal(answer: _Answer) -> bool:
    return answer.status in {401, 403} or answer.code in _ACCOUNT_CODES


def _read_answer(text: str, secrets: Sequence[str]) -> _Answer:
    head = text.partition("\n\nDebug source")[0]
    status, code, message = (found.search(head) for found in (_STATUS, _CODE, _MESSAGE))
    said = message[1] if message else ""
    for secret in secrets:
        said = said.replace(secret, "…")
    return _Answer(
        int(status[1]) if status else 0, code[1] if code else "", said.strip()[:_MESSAGE_CHARACTERS]
    )


def _describe_refusal(answer: _Answer, text: str) -> str:
    if not answer.status or _MACHINE in text:  # the bucket was not even asked
        return f"{NO_ACCOUNT} {HINT_ACCOUNT}"
    told = f" ({answer})" if answer.code else ""
    if answer.code == "RequestTimeTooSkewed":
        return f"access is refused{told}. Set this machine's clock."
    return f"access is refused{told}. {HINT_ACCOUNT}"


def _describe(answer: _Answer, text: str) -> str:
    if answer.status:
        if _FULL.search(str(answer)):
            return f"its server is full ({answer}). Make room there, then run the command again."
        return f"its server cannot do it now ({answer}). Try again later."
    for words, what, hint in _CAUSES:
        if any(word in text for word in words):
            return f"{what}. {hint}"
    return f"the connection broke off. {_HINT_WAY}"

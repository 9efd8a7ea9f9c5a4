"""A model's own tokenizer: prompts and text to ids, ids to text one token at a time.

Promises: the texts of consecutive tokens add up to the decoding of them all, also over two calls that divide a
character or a word's leading space; special tokens have no text, except one that is the closing text of the
reasoning; text that merely looks like a special token stays text in `encode_text` and in messages; prompts may be
encoded in another thread, and this one runs meanwhile.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from actors.boundaries import stop_ids
from actors.engines.token_chars import TokenChars
from actors.errors import ConfigError, ContextTooLong, RequestError
from actors.messages import Message, Prompt, RoleInfo, StepRule, TokenIds

PRIMING_TOKENS = 16
"""So many tokens of the prefix are decoded for context: more than one character or word ever has."""
MAX_CHARACTER_TOKENS = 4
"""A character has at most four bytes, and a token at least one."""
_HOLDER = re.compile("(\ue000\\d+\ue001)")
"""Stands for a message while the template is rendered: characters for private use, which no template writes."""
OPEN_TEMPLATE_ARGUMENTS = {"add_generation_prompt", "continue_final_message", "tools", "documents"}
"""Arguments of `apply_chat_template` that a request may set; its others are ours, all other names the template's."""


class ModelTokenizer:
    """Wraps the fast tokenizer (of Hugging Face transformers) that belongs to a model; made once."""

    def __init__(self, tokenizer: Any, vocab_size: int, info: RoleInfo | None = None) -> None:
        """`vocab_size` is the model's own, which may be larger than the tokenizer's. `info` has its name and context;
        None: prompts may be of any length."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ConfigError(
                f"The tokenizer {type(tokenizer).__name__} has no fast form, which step boundaries need; "
                "choose a model with a tokenizer.json or another tokenizer_mode.",
                "engine.options",
            )
        self._tokenizer = tokenizer
        self._backend = backend
        # A copy, because reading special tokens as text is a switch of the whole tokenizer.
        self._plain = Tokenizer.from_str(backend.to_str())
        self._plain.encode_special_tokens = True
        self._vocab_size = vocab_size
        self._info = info
        self._token_chars = TokenChars.of(backend)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.fingerprint = _fingerprint(vocabulary)
        ids = sorted(vocabulary.values())
        texts = backend.decode_batch([[token] for token in ids], skip_special_tokens=False)
        self._texts: Mapping[int, str] = dict(zip(ids, texts, strict=True))
        added = backend.get_added_tokens_decoder()
        self._special = {token: entry.content for token, entry in added.items() if entry.special}
        self._cached_stop_ids = lru_cache(8)(partial(stop_ids, self._texts))

    def encode_prompt(self, prompt: Prompt) -> TokenIds:
        """`prompt` by the model's chat template; seconds where it has millions of characters.

        RequestError for what the template or the vocabulary refuses, ContextTooLong where no room is left for a token.
        """
        if prompt.token_ids is not None:
            self._require_room(len(prompt.token_ids))
            return self._checked(prompt.token_ids)
        if prompt.text is not None:  # an empty one has a token where the tokenizer puts one before all texts
            return self._checked(self._encoded([(self._backend, prompt.text)], add_special_tokens=True))
        if prompt.literal or self._holds_special(prompt.messages):
            return self._encoded(self._literal_parts(prompt))
        return self._encoded([(self._backend, self._rendered(prompt))])

    def encode_text(self, text: str) -> TokenIds:
        """`text` as a continuation; nothing is added, and no special token is read out of it."""
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, special tokens included."""
        # In a batch, since `decode` holds Python's lock until it is done.
        return str(self._backend.decode_batch([list(token_ids)], skip_special_tokens=False)[0])

    def text_stream(self, prefix: Sequence[int], close: str | None) -> TextStream:
        """The text of what follows `prefix`, token by token."""
        shown = {token: text for token, text in self._special.items() if text == close}
        return TextStream(self._backend, prefix, shown)

    def last_text(self, prefix: Sequence[int], rule: StepRule = StepRule()) -> str:
        """The text of the last few tokens of `prefix`, special tokens included: enough of them for a closing text or
        stop string of `rule` that lacks its last token. A character that is cut has none: it comes whole from the
        `text_stream` behind `prefix`."""
        longest = max(len(text) for text in (rule.close or "", *rule.stop))
        num_tokens = max(PRIMING_TOKENS, MAX_CHARACTER_TOKENS * longest)
        window = list(prefix[-num_tokens:])
        whole = window[: len(window) - _num_cut(self._backend, window, skip_special_tokens=False)]
        return str(self._backend.decode(whole, skip_special_tokens=False))

    def stop_ids(self, rule: StepRule) -> frozenset[int]:
        """As `actors.boundaries.stop_ids`."""
        return self._cached_stop_ids(StepRule(rule.boundary, close=rule.close))

    def _holds_special(self, messages: Sequence[Message]) -> bool:
        """Whether a message has text like a special token: in it, a user could end his turn and write the system's."""
        return any(text in message.content for text in self._special.values() for message in messages)

    def _literal_parts(self, prompt: Prompt) -> list[tuple[Tokenizer, str]]:
        """The template's own words with their special tokens, the messages without any."""
        contents = {f"\ue000{number}\ue001": message.content for number, message in enumerate(prompt.messages)}
        messages = tuple(Message(m.role, holder) for m, holder in zip(prompt.messages, contents, strict=True))
        parts = _HOLDER.split(self._rendered(replace(prompt, messages=messages)))
        return [(self._plain, contents[part]) if part in contents else (self._backend, part) for part in parts]

    def _encoded(self, parts: Sequence[tuple[Tokenizer, str]], add_special_tokens: bool = False) -> TokenIds:
        self._require_room(sum(self._token_chars.fewest_tokens(text) for _, text in parts), or_more=True)
        # In a batch, since `encode` holds Python's lock until it is done.
        batches = [reader.encode_batch_fast([text], add_special_tokens=add_special_tokens) for reader, text in parts]
        self._require_room(sum(len(encoding) for (encoding,) in batches))
        return tuple(chain.from_iterable(encoding.ids for (encoding,) in batches))

    def _require_room(self, num_tokens: int, or_more: bool = False) -> None:
        info = self._info
        if info is not None and num_tokens >= info.max_model_len:
            raise ContextTooLong.of_prompt(num_tokens, info.max_model_len, or_more=or_more)

    def _checked(self, token_ids: TokenIds) -> TokenIds:
        if not token_ids:
            raise RequestError("The prompt has no tokens; send at least one.", "prompt")
        for token in token_ids:
            if not 0 <= token < self._vocab_size:
                raise RequestError(
                    f"The prompt holds the token id {token}; this model's ids are 0 to {self._vocab_size - 1}.",
                    "prompt",
                )
        return token_ids

    def _rendered(self, prompt: Prompt) -> str:
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        options = {"add_generation_prompt": True, **self._template_options(prompt.template_options)}
        try:
            rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # a template is a program of the model's author: it may raise anything
            raise RequestError(
                f"The model's chat template does not accept these messages: {error}. "
                "Check their roles and order, and the template's options.",
                "messages",
            ) from error
        return f"{rendered}{prompt.answer_prefix}"

    def _template_options(self, text: str) -> dict[str, Any]:
        try:
            options = json.loads(text)
        except ValueError as error:
            raise RequestError(f"The chat template's options are not JSON: {error}.", "chat_template_kwargs") from error
        if not isinstance(options, dict):
            raise RequestError("The chat template's options must be a JSON object.", "chat_template_kwargs")
        ours = set(inspect.signature(self._tokenizer.apply_chat_template).parameters) - OPEN_TEMPLATE_ARGUMENTS
        if refused := sorted(ours & options.keys()):
            raise RequestError(
                f"The chat template's option {refused[0]!r} cannot be set by a request; leave it out.",
                "chat_template_kwargs",
            )
        return options


class TextStream:
    """The text of one generation, token by token. A token that ends inside a character has no text of its own; the
    character comes with the token that completes it."""

    def __init__(self, backend: Tokenizer, prefix: Sequence[int], shown: Mapping[int, str]) -> None:
        """`shown` has the text of those special tokens that must not be left out."""
        self._backend = backend
        self._shown = shown
        window = list(prefix[-PRIMING_TOKENS:])
        # A DecodeStream that starts on half a character would repeat all of its first tokens later: it starts before
        # that character and is then led through it.
        cut = len(window) - _num_cut(backend, window, skip_special_tokens=True)
        self._stream = DecodeStream(ids=window[:cut], skip_special_tokens=True)
        for token in window[cut:]:
            self.step(token)

    def step(self, token: int) -> str:
        """The text that `token` adds."""
        if token in self._shown:
            return self._shown[token]
        try:
            return self._stream.step(self._backend, token) or ""
        except Exception as error:  # tokenizers raises bare Exceptions
            if not str(error).startswith("Invalid prefix"):
                raise
            # Bytes that are no text at all can confuse the stream; it starts again at this token, as vLLM's does.
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._backend, token) or ""


def _num_cut(backend: Tokenizer, token_ids: Sequence[int], *, skip_special_tokens: bool) -> int:
    """How many of the last tokens belong to a character that `token_ids` end in the middle of."""
    window = list(token_ids[-PRIMING_TOKENS:])
    whole = len(window)
    while whole and backend.decode(window[:whole], skip_special_tokens=skip_special_tokens).endswith("\ufffd"):
        whole -= 1
    return len(window) - whole


def _fingerprint(vocabulary: Mapping[str, int]) -> str:
    digest = hashlib.sha256()
    for token, number in sorted(vocabulary.items()):
        digest.update(f"{len(token)}:{token}={number}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

"""Everything that can go wrong, whose fault it is, and what to do about it.

    LookaheadError
    ├── RequestError            the client's: the request cannot be served as it is            400
    │   ├── ContextTooLong      the prompt, or prompt and max_tokens, exceed the context        400
    │   ├── UnknownModel        no such model here                                              404
    │   └── HandedOver          its client reads this stream over another connection            409
    ├── CapacityError           nobody's: too much work for now, try again                     429
    ├── ServiceError            ours: a part of the system did not answer                       503
    │   ├── RoleUnavailable     a draft, target or verifier replica died or could not be had    503
    │   │   ├── RoleSilent          a replica took a call and then said nothing for too long    503
    │   │   ├── OtherVocabulary     a replica's model has other tokens than the prompt came in  503
    │   │   └── AttemptsExhausted   a coordinator has tried in vain; another one would, too     503
    │   └── DeadlineExceeded    the request's or the server's time limit passed                 408
    └── OperatorError           the operator's: a config or a model that cannot be used         500
        ├── ConfigError         a config file or profile is wrong
        ├── StrategyError       the code of a strategy does what none may do
        └── WeightsError        model weights are missing, broken or cannot be loaded

Promises: every error survives pickling with its class and fields (all arguments reach ``Exception.__init__``); its
message says what happened and what to do, in words for a person; `status`, `code` and `kind` are OpenAI's.
"""

from __future__ import annotations


class LookaheadError(Exception):
    """Root of the tree. `param` names the request field or config key at fault, where there is one."""

    status = 500
    code = "internal_error"
    kind = "server_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return self.message


class RequestError(LookaheadError):
    """The client's fault: change the request."""

    status = 400
    code = "invalid_request"
    kind = "invalid_request_error"


class ContextTooLong(RequestError):
    """The prompt, or the prompt with `max_tokens`, does not fit the model's context. `param` is ``prompt`` or
    ``max_tokens``, as a `GenerationRequest` has them: a client may have called them otherwise."""

    code = "context_length_exceeded"

    @classmethod
    def of_prompt(cls, num_tokens: int, max_model_len: int, *, or_more: bool = False) -> ContextTooLong:
        """Of a prompt of `num_tokens`, `or_more`, which leaves no room for one token of the answer."""
        found = f"The prompt has {num_tokens} tokens{' or more' if or_more else ''}, and the answer needs room as well."
        return cls.of_model(max_model_len, f"{found} Shorten the prompt.", "prompt")

    @classmethod
    def of_model(cls, max_model_len: int, found: str, param: str) -> ContextTooLong:
        """Of what was `found`, and what to do. The first words are those of vLLM's own error: clients look for them."""
        return cls(f"This model's maximum context length is {max_model_len} tokens. {found}", param)


class UnknownModel(RequestError):
    """No such model is served here."""

    status = 404
    code = "model_not_found"


class HandedOver(RequestError):
    """The client has come back for this stream over another connection, which has the rest of it."""

    status = 409
    code = "stream_resumed_elsewhere"


class CapacityError(LookaheadError):
    """Too much work for now: try again after `retry_after_s` seconds."""

    status = 429
    code = "rate_limit_exceeded"
    kind = "rate_limit_error"

    def __init__(self, message: str, param: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, param)
        self.args = (message, param, retry_after_s)
        self.retry_after_s = retry_after_s


class ServiceError(LookaheadError):
    """Our fault: a part of the system did not do its work. The same request may succeed later."""

    status = 503
    code = "service_unavailable"


class RoleUnavailable(ServiceError):
    """A replica of a role died, or none could be had in time; another may answer."""

    code = "role_unavailable"


class RoleSilent(RoleUnavailable):
    """A call was given up, since its replica said nothing for longer than such calls take."""


class OtherVocabulary(RoleUnavailable):
    """The model of a replica has another vocabulary than the prompt's tokens: it took the place of the one that they
    are of. The prompt is to be encoded anew."""


class AttemptsExhausted(RoleUnavailable):
    """A role that a coordinator needs did not answer in all its attempts: asking another coordinator is no use."""


class DeadlineExceeded(ServiceError):
    """The time limit of the request passed; what was sent before is valid."""

    status = 408
    code = "deadline_exceeded"
    kind = "timeout_error"


class OperatorError(LookaheadError):
    """The operator's fault: the deployment cannot run as configured."""

    code = "misconfigured"


class ConfigError(OperatorError):
    """A config file or profile is wrong."""

    code = "bad_config"


class StrategyError(OperatorError):
    """A strategy that this deployment was given does what none may do: its code is to be mended. No other coordinator
    would do better."""

    code = "bad_strategy"


class WeightsError(OperatorError):
    """Model weights are missing, broken, or cannot be loaded."""

    code = "bad_weights"

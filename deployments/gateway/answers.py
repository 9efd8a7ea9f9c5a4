"""Outputs of the backend in OpenAI's words: whole answers, and the chunks of a stream.

Promises: every text of every `Committed` stands in exactly one place, in order; token counts are those of `Finished`;
no I/O and no clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from deployments.gateway.shapes import (
    AnswerMessage,
    ChatChoice,
    ChatChunkChoice,
    Delta,
    SpeculationReport,
    StepMark,
    TextChoice,
    Usage,
)
from deployments.generation import Channel, Committed, Finished, Opened, Output, SpeculationSummary

Chunk = dict[str, Any]


@dataclass
class Choice:
    """What is known of one choice so far."""

    texts: dict[Channel, list[str]] = field(default_factory=lambda: {channel: [] for channel in Channel})
    finished: Finished | None = None

    @property
    def end(self) -> Finished:
        """The last output; only a finished choice has one."""
        if self.finished is None:
            raise RuntimeError("the choice is not finished")
        return self.finished


class Answer(ABC):
    """One HTTP answer being put together. `n` choices belong to each prompt."""

    id_prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, request_id: str, model: str, created: int, num_choices: int, n: int) -> None:
        self._head = {"id": self.id_prefix + request_id, "created": created, "model": model}
        self._choices = [Choice() for _ in range(num_choices)]
        self._n = n

    def record(self, index: int, output: Output) -> None:
        """Take in an output, for `whole`."""
        if isinstance(output, Committed):
            self._choices[index].texts[output.channel].append(output.text)
        elif isinstance(output, Finished):
            self._choices[index].finished = output

    def whole(self) -> dict[str, Any]:
        """The answer, once every choice is finished."""
        choices = [
            {**self._whole_choice(i, choice), **self._own_report(choice)} for i, choice in enumerate(self._choices)
        ]
        return {
            **self._head,
            "object": self.kind,
            "choices": choices,
            "usage": self._usage(),
            "speculation": self._report(),
        }

    def chunks(self, index: int, output: Output) -> Iterator[Chunk]:
        """What a stream says of an output: nothing, or one chunk."""
        if isinstance(output, Opened):
            opening = self._opening(index)
            if opening is not None:
                yield self._chunk(opening)
        elif isinstance(output, Committed):
            if output.text:
                mark: StepMark = {"origin": str(output.origin), "step": output.step}
                yield self._chunk(self._piece(index, output), lookahead=mark)
        else:
            choice = self._choices[index]
            choice.finished = output
            end = {"finish_reason": output.finish_reason, "stop_reason": output.stop_reason}
            last = all(each.finished is not None for each in self._choices)
            more = {"speculation": self._report()} if last else {}
            yield self._chunk({**self._closing(index), **end, **self._own_report(choice)}, **more)

    def usage_chunk(self) -> Chunk:
        """The chunk after the last one, for clients that ask for usage."""
        usage, report = self._usage(), self._report()
        return {**self._head, "object": self.chunk_kind, "choices": [], "usage": usage, "speculation": report}

    def _chunk(self, choice: Any, **more: Any) -> Chunk:
        return {**self._head, "object": self.chunk_kind, "choices": [choice], **more}

    def _usage(self) -> Usage:
        ends = [choice.end for choice in self._choices]
        prompt = sum(end.num_prompt_tokens for end in ends[:: self._n])
        completion = sum(end.num_output_tokens for end in ends)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "completion_tokens_details": {
                "reasoning_tokens": sum(end.num_reasoning_tokens for end in ends),
                "accepted_prediction_tokens": sum(end.summary.accepted_tokens for end in ends),
                "rejected_prediction_tokens": sum(end.summary.rejected_tokens for end in ends),
            },
        }

    def _report(self) -> SpeculationReport:
        return report(self._choices[0].end.summary)

    def _own_report(self, choice: Choice) -> dict[str, SpeculationReport]:
        return {"speculation": report(choice.end.summary)} if len(self._choices) > 1 else {}

    @abstractmethod
    def _whole_choice(self, index: int, choice: Choice) -> Any: ...

    @abstractmethod
    def _opening(self, index: int) -> Any: ...

    @abstractmethod
    def _piece(self, index: int, committed: Committed) -> Any: ...

    @abstractmethod
    def _closing(self, index: int) -> Any: ...


class ChatAnswer(Answer):
    """A chat completion: reasoning and content apart."""

    id_prefix = "chatcmpl-"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def __init__(
        self, request_id: str, model: str, created: int, num_choices: int, n: int, reasoning_content: bool
    ) -> None:
        super().__init__(request_id, model, created, num_choices, n)
        self._reasoning_content = reasoning_content

    def _whole_choice(self, index: int, choice: Choice) -> ChatChoice:
        content = "".join(choice.texts[Channel.CONTENT])
        reasoning = "".join(choice.texts[Channel.REASONING])
        message: AnswerMessage = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            message["reasoning"] = reasoning
            if self._reasoning_content:
                message["reasoning_content"] = reasoning
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": choice.end.finish_reason,
            "stop_reason": choice.end.stop_reason,
        }

    def _opening(self, index: int) -> ChatChunkChoice:
        return self._delta(index, {"role": "assistant", "content": ""})

    def _piece(self, index: int, committed: Committed) -> ChatChunkChoice:
        if committed.channel is Channel.CONTENT:
            return self._delta(index, {"content": committed.text})
        delta: Delta = {"reasoning": committed.text}
        if self._reasoning_content:
            delta["reasoning_content"] = committed.text
        return self._delta(index, delta)

    def _closing(self, index: int) -> ChatChunkChoice:
        return self._delta(index, {})

    def _delta(self, index: int, delta: Delta) -> ChatChunkChoice:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


class TextAnswer(Answer):
    """A completion: one text, in which reasoning is text like any other."""

    id_prefix = "cmpl-"
    kind = chunk_kind = "text_completion"

    def record(self, index: int, output: Output) -> None:
        """As `Answer.record`, but all text belongs to one channel, or its order would be lost."""
        if isinstance(output, Committed):
            self._choices[index].texts[Channel.CONTENT].append(output.text)
        else:
            super().record(index, output)

    def _whole_choice(self, index: int, choice: Choice) -> TextChoice:
        return {
            "index": index,
            "text": "".join(choice.texts[Channel.CONTENT]),
            "logprobs": None,
            "finish_reason": choice.end.finish_reason,
            "stop_reason": choice.end.stop_reason,
        }

    def _opening(self, index: int) -> None:
        return None

    def _piece(self, index: int, committed: Committed) -> TextChoice:
        return {"index": index, "text": committed.text, "logprobs": None, "finish_reason": None}

    def _closing(self, index: int) -> TextChoice:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None}


def report(summary: SpeculationSummary) -> SpeculationReport:
    """The `speculation` object of a response."""
    return {
        "mode": summary.mode,
        "num_steps": summary.num_steps,
        "num_accepted_steps": summary.num_accepted_steps,
        "num_recovered_steps": summary.num_recovered_steps,
        "num_target_steps": summary.num_target_steps,
        "num_draft_steps": summary.num_draft_steps,
        "num_cancelled_steps": summary.num_cancelled_steps,
        "num_branch_steps": summary.num_branch_steps,
        "num_merged_steps": summary.num_merged_steps,
        "accept_rate": summary.accept_rate,
        "draft_token_share": summary.draft_token_share,
        "degraded": list(summary.degraded),
    }

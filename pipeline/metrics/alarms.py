"""The alarms of training: rules over the rows of metrics.jsonl, the same for a live worker, `pipeline status` and the report.

`Watch` sees one row after another in microseconds; `summary` is a Watch that has seen them all. Pure: no files, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import AlarmConfig
from pipeline.metrics.alarm_measures import (
    NOT_A_LABEL,
    LogRow,
    Measure,
    last,
    mean,
    not_finite,
    parted,
    share_of_start,
    skipped,
    unclipped,
    unseen,
)

UNSEEN = "images_unseen"
"""The alarm of a student that answers without looking, which a report tells with the phase it is so since."""


@dataclass(frozen=True)
class Rule:
    """One alarm. `name` is the field of `AlarmConfig` that holds its threshold.

    Args:
        measure: makes the function that reads the figure from rows, given the window.
        what: the figure in words.
        means: what is wrong when it is past the threshold.
        cure: what to do.
        below: whether low values are the bad ones.
        of: the stages it looks at: all, grpo, or clip (those that ask for clipping).
    """

    name: str
    measure: Callable[[int], Measure]
    what: str
    means: str
    cure: str
    below: bool = False
    of: str = "all"


class Watch:
    """The alarms of one stage as its rows come in.

    Args:
        settings: the thresholds.
        algorithm: of the stage: sft or grpo.
        clips: whether the stage is to clip.
    """

    def __init__(self, settings: AlarmConfig, algorithm: str, clips: bool) -> None:
        self.summary: dict[str, dict[str, Any]] = {}
        """Per alarm that ever was on: first and last step, number of steps, the worst value, the threshold."""
        self.on: dict[str, dict[str, Any]] = {}
        """The event that began each alarm that is on."""
        self._step = 0
        kinds = {"all", algorithm, *(["clip"] if clips else [])}
        self._rules = [
            (rule, threshold, rule.measure(settings.window))
            for rule in RULES
            if (threshold := getattr(settings, rule.name)) is not None and rule.of in kinds
        ]

    def see(self, row: LogRow) -> list[dict[str, Any]]:
        """Return the events of one row: alarms that begin or end with it, as they are written to alarms.jsonl."""
        events = []
        steps, self._step = row["step"] - self._step, row["step"]
        for rule, threshold, measure in self._rules:
            value = measure(row)
            was = rule.name in self.on
            bad = was if value is None else value < threshold if rule.below else value > threshold
            if bad != was:
                assert value is not None
                event = {"step": row["step"], "alarm": rule.name, "event": "begin" if bad else "end", "value": value}
                said = text(rule.name, value, threshold) if bad else f"{rule.what} is {value:.4g} again"
                events.append({**event, "threshold": threshold, "text": said})
            if bad and not was:
                self.on[rule.name] = events[-1]
            elif was and not bad:
                del self.on[rule.name]
            if bad:
                self._count(rule, row["step"], steps, threshold, value)
        return events

    def _count(self, rule: Rule, step: int, steps: int, threshold: float, value: float | None) -> None:
        worst = min if rule.below else max
        seen = self.summary.get(rule.name) or {"first": step, "steps": 0, "worst": value}
        self.summary[rule.name] = {
            "first": seen["first"],
            "last": step,
            "steps": seen["steps"] + steps,
            "worst": seen["worst"] if value is None else worst(seen["worst"], value),
            "threshold": threshold,
        }


def summary(rows: Iterable[LogRow], settings: AlarmConfig, algorithm: str, clips: bool) -> dict[str, dict[str, Any]]:
    """`Watch.summary` after all `rows`, in the order the alarms began."""
    watch = Watch(settings, algorithm, clips)
    for row in rows:
        watch.see(row)
    return watch.summary


def text(name: str, value: float, threshold: float) -> str:
    """Return an alarm in one line: figure, threshold, meaning and cure."""
    rule = _BY_NAME[name]
    than = "below" if rule.below else "above"
    return f"{rule.what} is {value:.4g}, {than} {threshold:g}: {rule.means}; {rule.cure}"


def describe_alarm(name: str, one: Mapping[str, Any]) -> str:
    """Return one entry of `Watch.summary` in a sentence, for the report."""
    steps = f"step {one['first']}" if one["first"] == one["last"] else f"steps {one['first']} to {one['last']}"
    return f"in training ({steps}, {one['steps']} in all), {text(name, one['worst'], one['threshold'])}."


RULES = (
    Rule(
        "nan",
        not_finite,
        "the number of logged figures that are not finite",
        "loss, gradient or reward is NaN or infinite, and the weights may be",
        "lower learning_rate or max_grad_norm, or mend the reward that returns it",
    ),
    Rule(
        "skipped",
        skipped,
        "the number of optimizer steps in a row that DeepSpeed skipped",
        "their gradient is NaN or infinite; the weights are whole, and nothing is learned from the rows of these steps",
        "none needed where it is rare; else lower learning_rate, or mend the reward that returns it",
    ),
    Rule(
        "images_dropped",
        last("images/dropped_ratio"),
        "the share of rows whose image did not reach the model",
        "the model trains on text alone",
        "look for truncated prompts, and for image tokens that the processor does not write",
    ),
    Rule(
        "image_tokens",
        last("images/token_mismatch_ratio"),
        "the share of rows with another number of image tokens than image features",
        "pictures and their places in the prompt do not fit",
        "use the processor of the same checkpoint, and keep image tokens out of completions (suppress_tokens)",
    ),
    Rule(
        UNSEEN,
        unseen,
        "the change of the logits with other pictures, as a share of the largest,",
        "the student answers without looking",
        "train what reads pictures: align the connector first, lift freeze, and look whether the rewards or the CoT rows can be "
        "had without the picture",
        below=True,
    ),
    Rule(
        "unsupervised",
        last("labels/empty_ratio"),
        "the share of rows without a supervised token",
        "they teach nothing",
        "look for empty completions, or a chat template that hides them",
    ),
    Rule(
        "truncated",
        mean("completions/clipped_ratio"),
        "the share of completions cut at max_completion_length",
        "what is cut has no answer and earns no reward",
        "raise trainer.max_completion_length, or train stage 1 longer so that answers end",
    ),
    Rule(
        "zero_std",
        mean("frac_reward_zero_std"),
        "the share of completions whose group has equal rewards",
        "GRPO learns nothing from them",
        "raise num_generations or temperature, choose harder rows, or end the stage: it has learned this reward",
    ),
    Rule(
        "duplicates",
        mean("completions/duplicate_ratio"),
        "the share of completions that repeat an earlier one of their group",
        "the policy hardly explores",
        "raise temperature, lower learning_rate, or set beta above 0",
    ),
    Rule(
        "unscored",
        mean("rewards/unscored_ratio"),
        "the share of completions to which no reward applied",
        "every reward returned None or NaN for them",
        "mend the rewards, or choose rows they apply to",
    ),
    Rule(
        "not_a_label",
        mean(NOT_A_LABEL),
        "the share of samples whose answer is none of the labels, or several",
        "a word that is no label earns nothing, and where all of a group write it nothing brings the label back",
        "start again from the parent with beta above 0 or a lower learning_rate; from the first step on: train stage 1 longer",
    ),
    Rule(
        "kl",
        mean("kl"),
        "the KL divergence from the reference model (nats per token)",
        "the policy has left the model it started from",
        "lower learning_rate or raise beta",
    ),
    Rule(
        "drift",
        mean("sampling/sampling_logp_difference/mean"),
        "the difference of log-probabilities between trainer and vLLM (nats per token)",
        "the server samples from another model than the one that trains",
        "check that weights are synchronised, and that both use one dtype and one chat template; with rollouts_ahead it is also "
        "what a rollout taught: lower learning_rate",
    ),
    Rule(
        "left_out",
        mean("sampling/left_out_ratio"),
        "the share of completions that the loss leaves out, since trainer and vLLM disagree on how likely they are",
        "differences of rounding add up over a long completion",
        "set trainer.vllm_importance_sampling_mode: token_truncate, which bounds each token in its place; with rollouts_ahead "
        "lower learning_rate",
    ),
    Rule(
        "entropy",
        share_of_start("entropy"),
        "the policy's entropy as a share of its start",
        "sampling has become nearly deterministic",
        "lower learning_rate, set beta above 0, or raise epsilon_high",
        below=True,
        # Supervised training is to make it fall.
        of="grpo",
    ),
    Rule(
        "length",
        share_of_start("completions/mean_length"),
        "the mean length of completions as a share of its start",
        "the reasoning is being dropped",
        "read completions; a reward may pay for short answers",
        below=True,
    ),
    Rule(
        "reward_hacking",
        parted,
        "the fall of validation accuracy from its best while the reward did not fall",
        "the policy earns reward without answering better",
        "stop here, start the next stage from this one's best (init_from: stage3:best), and mend the reward",
    ),
    Rule(
        "clip_void",
        unclipped,
        "the number of steps that could clip and did not",
        "so far the clip range has no effect",
        "raise num_iterations or learning_rate, or tighten epsilon and epsilon_high",
        of="clip",
    ),
)
"""Every alarm, in the order they are told."""
_BY_NAME = {rule.name: rule for rule in RULES}

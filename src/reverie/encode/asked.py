"""What is asked in a prompt's syntax, as one condition: every text that is heard on the way, and how much of the estimate it has.

A prompt without signs gives the plain condition of its encoder. Else `Cond.parts` holds a condition of each text, and `Cond.shares`
how much of the estimate it has at each step: 1 for the text of a schedule, its weight for one that AND joins; 1 - sum w is left for
the negative prompt, which is what conjunction moves away from (`guide/composed.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from reverie.denoiser import Cond
from reverie.encode import Encoder
from reverie.encode.syntax import AND, BREAK, Said, composed, extras, late, parts, said, schedule, unbalanced
from reverie.errors import UserError

Plan = dict[tuple[Any, bool], list[float]]
"""(text, whether it is negative) -> its share at each step."""
MOST = 64
"""Texts of one prompt."""


def read(
    encoder: Encoder,
    texts: Sequence[Any],
    size: tuple[int, int] | None = None,
    steps: int = 1,
    *,
    against: bool = False,
    negative: Sequence[Any] = (),
    plain: bool = False,
) -> Cond:
    """One row per prompt, each encoded by itself: in a batch its last bits would depend on the others, and bf16 enlarges them.

    steps: of the way, to which schedules refer. against: the prompts are negative; a few encoders say those in another way, and AND
    is a word in them. negative: the negative prompt of each sample, for AND; empty where none is given. plain: signs are words.
    """
    away = negative or [""] * len(texts)
    plans = [_plan(encoder, text, steps, against, other, plain) for text, other in zip(texts, away, strict=True)]
    hear = {False: encoder.prompts, True: getattr(encoder, "against", encoder.prompts)}
    each = {key: hear[key[1]]([key[0]], size) for plan in plans for key in plan}
    return Cond.cat([_condition(plan, each) for plan in plans])


def words(encoder: Encoder | None, text: Any, steps: int = 1, *, plain: bool = False) -> Any:
    """A prompt without its signs, for what reads words alone. UserError where it is more than one prompt."""
    plan = _plan(encoder, text, steps, False, "", plain)
    if len(plan) > 1:
        raise UserError(
            f"'{str(text)[:60]}' is {len(plan)} prompts, and what judges a picture reads one prompt for all of the way: leave out "
            "[a:b:0.5], [a|b] and AND, or say what it is to read as wanted='...'"
        )
    (one, _), *_ = plan
    return str(one) if isinstance(one, Said) else one


def _plan(encoder: Encoder | None, text: Any, steps: int, against: bool, negative: Any, plain: bool) -> Plan:
    if plain or _literal(encoder, text):
        return {(text, against): [1.0] * steps}
    words = extras(text)[0]
    joined = [(words, 1.0)] if against else composed(words)
    plan: Plan = {}
    for part, weight in joined:
        _add(plan, encoder, part, weight, steps, against)
    if abs(left := 1 - sum(weight for _, weight in joined)) > 1e-9:
        if _literal(encoder, negative):
            plan[negative, True] = [left] * steps
        else:
            _add(plan, encoder, extras(negative)[0], left, steps, True)
    if len(plan) > MOST:
        raise UserError(f"'{str(text)[:60]}' is {len(plan)} prompts on the way, and at most {MOST} are heard: say fewer changes")
    return plan


def _add(plan: Plan, encoder: Encoder | None, text: str, weight: float, steps: int, against: bool) -> None:
    first = 0
    for until, now in schedule(text, steps):
        shares = plan.setdefault((now if _literal(encoder, now) else said(now), against), [0.0] * steps)
        shares[first:until] = [share + weight for share in shares[first:until]]
        first = until


def _literal(encoder: Encoder | None, text: Any) -> bool:
    """Whether a prompt has no signs: a number, what is no text at all, or the name of a class with brackets in it."""
    knows = getattr(encoder, "knows", None)
    return not isinstance(text, str) or (knows is not None and bool(knows(text)))


def _condition(plan: Plan, each: dict[tuple[Any, bool], Cond]) -> Cond:
    heard = {key: shares for key, shares in plan.items() if any(shares)} or plan
    conds = tuple(each[key] for key in heard)
    if len(conds) == 1 and all(share == 1 for share in next(iter(heard.values()))):
        return conds[0]
    shares = torch.tensor(list(heard.values()), dtype=torch.float64).T[None]  # (1, K, V)
    return replace(conds[0], parts=conds, shares=shares if bool((shares != shares[:, :1]).any()) else shares[:, :1])


def notes(encoder: Encoder, text: Any, steps: int = 1, *, against: bool = False, plain: bool = False) -> list[str]:
    """What of a prompt has no effect, or another than its writer may think, one line each."""
    if plain or _literal(encoder, text):
        return encoder.notes(text)
    words, files = extras(text)
    out = [f"'{file.text[:60]}' is not applied: files are named by --lora, or by the prompt of reverie generate" for file in files]
    if against and AND.search(words):
        out.append("AND joins prompts; in a negative prompt it is read as a word")
    if late(words, steps):
        out.append(f"a change in '{words[:60]}' comes after the last of the {steps} steps: say a share below 1, or fewer steps")
    now = [text for part, _ in ([(words, 1.0)] if against else composed(words)) for _, text in schedule(part, steps)]
    for each in dict.fromkeys(now):
        if not _literal(encoder, each):
            out += _odd(each) + _unheard(encoder, said(each)) + encoder.notes(said(each))
    return list(dict.fromkeys(out))


def _odd(text: str) -> list[str]:
    """Of brackets without another half: how they are read."""
    said = {
        sign: f"'{sign}' is not closed in '{text[:60]}': it reaches to the end of the prompt"
        if sign in "(["
        else f"'{sign}' closes nothing in '{text[:60]}' and is read as a letter"
        for sign in unbalanced(text)
    }
    return list(said.values())


def _unheard(encoder: Encoder, prompt: str) -> list[str]:
    """Of what is weighed where weights are not heard."""
    if getattr(encoder, "weighs", False) or not isinstance(prompt, Said):
        return []
    weighed = [part for part in parts(prompt) if part != BREAK and part[1] != 1]
    out = []
    if weighed:
        words, weight = weighed[0]
        out.append(f"weights do nothing with this model, as {weight:.3g} of '{words.strip()[:40]}': only the words are read")
    if BREAK in prompt.parts:
        out.append("BREAK does nothing with this model, which reads a prompt as one row of words")
    return out

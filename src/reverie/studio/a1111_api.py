"""The routes of AUTOMATIC1111's web UI, for programs that speak them.

Names and meanings are its own; sizes, steps and guidance that are not given are the model's own, and not 512, 50 and 7. A field
that asks for what is not done here is refused, unless it asks for nothing; so is one that is not known.
"""

import asyncio
import base64
import json
import random
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse

from reverie.errors import UserError
from reverie.studio.hands import Hands
from reverie.studio.jobs_api import Working
from reverie.studio.queue import DONE, MOST, OVER, QUEUED, RUNNING, Over, Queue
from reverie.studio.strict import Strict, picture

router = APIRouter(prefix="/sdapi/v1")
CLIENT = "a1111"
"""Its routes mean the one job that runs: those of this name."""
Share = Annotated[float, Field(ge=0, le=1)]


class Txt2Img(Strict):
    """POST txt2img. Fields that come last are taken where they ask for nothing."""

    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = Field([])
    seed: int = -1
    subseed: int = -1
    subseed_strength: Share = 0
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=64)] = 1
    n_iter: Annotated[int, Field(ge=1, le=64)] = 1
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    override_settings: dict[str, Any] = Field({})
    override_settings_restore_afterwards: bool = True
    alwayson_scripts: dict[str, Any] = Field({})
    send_images: bool = True
    save_images: bool = True
    force_task_id: str | None = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = True
    denoising_strength: Share | None = None
    enable_hr: bool = False
    restore_faces: bool | None = False
    tiling: bool | None = False
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    script_name: str | None = None
    script_args: list[Any] = Field([])
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0


class Img2Img(Txt2Img):
    """POST img2img."""

    init_images: list[str] = Field(min_length=1, max_length=1)
    mask: str | None = None
    inpainting_mask_invert: int = Field(0, ge=0, le=1)
    include_init_images: bool = False
    mask_blur: int = 0
    inpainting_fill: int = 1
    inpaint_full_res: bool = False
    inpaint_full_res_padding: int = 0
    resize_mode: int = 1


class Pictured(Strict):
    """POST png-info."""

    image: str


REFUSED: Mapping[str, tuple[Any, ...]] = {
    "enable_hr": (False,),
    "restore_faces": (False, None),
    "tiling": (False, None),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "script_name": (None, ""),
    "script_args": ([],),
    "mask_blur": (0,),
    "inpaint_full_res": (False,),
    "resize_mode": (1,),
    "inpainting_fill": (1,),
}
"""Fields that are not done here, and what of them asks for nothing."""


def wish(asked: Txt2Img, model: str = "") -> dict[str, Any]:
    """The same as a job, without its pictures."""
    for name, nothing in REFUSED.items():
        if (value := getattr(asked, name, nothing[0])) not in nothing:
            raise UserError(f"{name} is {value!r:.60}: that is not done here, leave it out")
    unknown = set(asked.override_settings) - {"sd_model_checkpoint"}
    if unknown:
        raise UserError(f"override_settings has {min(unknown)!r:.80}: only sd_model_checkpoint can be set here")
    if len(asked.styles) > 1:
        raise UserError("several styles: give one, of the model's own")
    seed = random.SystemRandom().randrange(2**31) if asked.seed == -1 else asked.seed
    sampler = asked.sampler_name or asked.sampler_index
    settings: dict[str, Any] = {"count": asked.batch_size * asked.n_iter, "batch": asked.batch_size, "seed": seed}
    settings |= {"negative": asked.negative_prompt, "style": (asked.styles or [""])[0]}
    given = {"steps": asked.steps, "guidance": asked.cfg_scale, "width": asked.width, "height": asked.height}
    settings |= {name: value for name, value in given.items() if value is not None}
    settings |= {"solver": f"a1111:{sampler}"} if sampler else {}
    settings |= _times(asked.scheduler)
    tasks = []
    if asked.subseed_strength:
        own = random.SystemRandom().randrange(2**31) if asked.subseed == -1 else asked.subseed
        tasks.append({"name": "vary", "seed": own, "share": asked.subseed_strength})
    chosen = str(asked.override_settings.get("sd_model_checkpoint") or model)
    return {"prompt": asked.prompt, "settings": settings, "tasks": tasks} | ({"model": chosen} if chosen else {})


def _times(scheduler: str | None) -> dict[str, str]:
    from reverie.solve.names import grid_of

    if not scheduler or scheduler.casefold() == "automatic":
        return {}
    if (grid := grid_of(scheduler, "a1111")) is None:
        raise UserError(f"there is no scheduler {scheduler!r:.80}: GET /sdapi/v1/schedulers lists them")
    return {"grid": grid}


async def _controls(asked: Txt2Img, working: Hands) -> list[dict[str, Any]]:
    """What the ControlNet script asks for."""
    unknown = set(asked.alwayson_scripts) - {"ControlNet", "controlnet"}
    if unknown:
        raise UserError(f"there is no script {min(unknown)!r:.80} here: only ControlNet")
    made = []
    for script in asked.alwayson_scripts.values():
        units = script.get("args", []) if isinstance(script, dict) else []
        for unit in units if isinstance(units, list) else []:
            if not isinstance(unit, dict) or not unit.get("enabled", True):
                continue
            if not isinstance(unit.get("image"), str) or not isinstance(unit.get("model"), str):
                raise UserError("a unit of ControlNet needs `model` and `image` (base64)")
            data = picture(unit["image"], "the image of ControlNet")
            name = await asyncio.to_thread(working.library.keep, data)
            card = {"name": "control", "net": unit["model"], "image": name, "take": _hint(unit.get("module"))}
            own = (("weight", "weight"), ("guidance_start", "start"), ("guidance_end", "stop"))
            made.append(card | {ours: unit[theirs] for theirs, ours in own if theirs in unit})
    return made


def _hint(module: Any) -> str:
    """Our name of a preprocessor: `canny` and its kin draw edges; none means that the picture is a hint already."""
    return "" if str(module or "none").casefold() == "none" else "edges()" if "canny" in str(module) else f"{module}()"


@router.post("/txt2img", response_model=None)
async def txt2img(asked: Txt2Img, request: Request, working: Working) -> JSONResponse:
    """Pictures from words, when they are done."""
    return await _answered(asked, [], request, working)


@router.post("/img2img", response_model=None)
async def img2img(asked: Img2Img, request: Request, working: Working) -> JSONResponse:
    """A picture changed; with a mask, what is white in it is drawn anew."""
    keep = working.library.keep
    card: dict[str, Any] = {"name": "edit", "image": await asyncio.to_thread(keep, picture(asked.init_images[0], "init_images"))}
    card["strength"] = 0.75 if asked.denoising_strength is None else asked.denoising_strength
    if asked.mask is not None:
        if asked.inpainting_mask_invert:
            raise UserError("inpainting_mask_invert is 1: send the mask the other way round")
        card |= {"name": "inpaint", "mask": await asyncio.to_thread(keep, picture(asked.mask, "mask"))}
    return await _answered(asked, [card], request, working)


async def _answered(asked: Txt2Img, cards: list[Any], request: Request, working: Hands) -> JSONResponse:
    job = wish(asked, getattr(request.app.state, "checkpoint", ""))
    job["tasks"] += [*cards, *await _controls(asked, working)]
    made = await working.submit(job, "draw", CLIENT)
    done = await working.finished(made.id, request.is_disconnected)
    if done.error:
        raise UserError(done.error)
    names = done.result["pictures"] if done.state == DONE else []
    images = [await asyncio.to_thread(working.library.picture(name).read_bytes) for name in names]
    first, count = job["settings"]["seed"], len(images)
    told = [await asyncio.to_thread(_text, data) for data in images]
    info = {"prompt": asked.prompt, "all_prompts": [asked.prompt] * count, "negative_prompt": asked.negative_prompt, "seed": first}
    info |= {"all_seeds": [first + k for k in range(count)], "infotexts": told, "job": done.id, "state": done.state}
    shown = [base64.b64encode(data).decode() for data in images] if asked.send_images else []
    left = {"init_images", "mask", "alwayson_scripts"}
    return JSONResponse({"images": shown, "parameters": asked.model_dump(exclude=left), "info": json.dumps(info)})


def _text(data: bytes) -> str:
    from reverie.studio.told import texts

    return texts(data).get("parameters", "")


@router.post("/png-info")
async def png_info(asked: Pictured) -> dict[str, Any]:
    """What a picture tells."""
    from reverie.studio.told import said, texts

    data = picture(asked.image, "image")
    found = await asyncio.to_thread(texts, data)
    return {"info": found.get("parameters", ""), "items": found, "parameters": await asyncio.to_thread(said, data) or {}}


@router.get("/progress")
async def progress(working: Working, skip_current_image: bool = False) -> dict[str, Any]:
    """Of the job of these routes that runs."""
    found = await working.look(Queue.jobs, RUNNING, client=CLIENT, limit=1)
    waiting = await working.look(Queue.jobs, QUEUED, client=CLIENT)
    state: dict[str, Any] = {"skipped": False, "interrupted": False, "job": "", "job_count": len(found) + len(waiting), "job_no": 0}
    state |= {"sampling_step": 0, "sampling_steps": 0}
    if not found:
        return {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    job, event = found[0], working.latest.get(found[0].id, {})
    step, steps = event.get("step", 0), event.get("steps", 0)
    done, total = event.get("first", 0), max(event.get("total", 1), 1)
    share = min((done + event.get("shown", 0) * step / max(steps, 1)) / total, 1.0)
    state |= {"job": job.id, "interrupted": job.stopping, "sampling_step": step, "sampling_steps": steps}
    shown = None if skip_current_image else await asyncio.to_thread(_preview, working, job.id)
    left = working.eta(job, share)
    return {"progress": share, "eta_relative": left or 0.0, "state": state, "current_image": shown, "textinfo": None}


def _preview(working: Hands, id: str) -> str | None:
    try:
        return base64.b64encode(working.library.preview(id, 0)).decode()
    except UserError:
        return None


@router.post("/interrupt")
async def interrupt(working: Working) -> dict[str, Any]:
    """Ends what of these routes runs or waits; others' jobs are left alone."""
    for job in await working.look(Queue.jobs, QUEUED, RUNNING, client=CLIENT, limit=MOST):
        if job.state not in OVER:
            try:
                await working.cancel(job.id)
            except Over:  # it ended meanwhile
                continue
    return {}


@router.post("/skip")
async def skip(working: Working) -> dict[str, Any]:
    """The same: a job is one batch."""
    return await interrupt(working)


class Options(Strict):
    """What can be set: the model of these routes."""

    sd_model_checkpoint: str


@router.get("/options")
async def options(request: Request) -> dict[str, Any]:
    """What is set."""
    return {"sd_model_checkpoint": getattr(request.app.state, "checkpoint", "") or "reverie-avatars"}


@router.post("/options")
async def set_options(asked: Options, request: Request, working: Working) -> dict[str, Any]:
    """Chooses the model, until the studio ends."""
    await asyncio.to_thread(working.library.model, asked.sd_model_checkpoint)
    request.app.state.checkpoint = asked.sd_model_checkpoint
    return {}


@router.get("/samplers")
async def samplers() -> list[dict[str, Any]]:
    """By the names of A1111, and ours where it has none."""
    from reverie.solve.names import SOLVERS, called

    return [{"name": called(name, "a1111") or name, "aliases": [name], "options": {}} for name in SOLVERS]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    """Times of the steps."""
    from reverie.solve.names import LABELS

    return [{"name": label, "label": label.capitalize(), "aliases": [grid]} for label, grid in LABELS["a1111"].items()]


@router.get("/sd-models")
async def sd_models(working: Working) -> list[dict[str, Any]]:
    """Models; filename is a name in the library, and no path."""
    from reverie.studio.shelf import models

    found = await asyncio.to_thread(models, working.library)
    named = [(one["id"], one["sha256"]) for one in found]
    return [{"title": n, "model_name": n, "hash": (h or "")[:10], "sha256": h, "filename": n, "config": None} for n, h in named]


@router.get("/loras")
async def loras(working: Working) -> list[dict[str, Any]]:
    """LoRAs of the library."""
    found = await asyncio.to_thread(working.library.names, "loras")
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in found]

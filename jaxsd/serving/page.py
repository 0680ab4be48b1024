"""The page: a thin Gradio view over the service.

Images go to the page in its answers, so that no file is made of them. Uploads are files in one folder. The page calls
them by paths that begin in the process's working folder, and those are all that it shows of the machine.
"""

import base64
import html
import inspect
import io
import os
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from gradio.components.gallery import GalleryData, GalleryImage
from gradio.components.image_editor import EditorData
from gradio.data_classes import ImageData
from gradio.themes import Default
from PIL import Image, ImageChops
from pydantic import model_validator

from jaxsd.audio import load_clip
from jaxsd.clip.images import load_image
from jaxsd.diffusion.samplers import SAMPLERS
from jaxsd.recipes.recipe import Recipe, SoundRecord, hash_file, read_recipe, save_png
from jaxsd.runtime.bundled import TOY_SAMPLES, sound_source
from jaxsd.runtime.cli import USER_ERRORS
from jaxsd.serving.service import UNEXPECTED, ImageJob, ImageRequest, ImageService, ImageStopped, ImageUpdate
from jaxsd.serving.sounds import LEFT, RIGHT, draw_sound, read_sound
from jaxsd.sound_to_image import LoadedSound

OWN_SAMPLER = "the model's own"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the strip
PREVIEW_SECONDS = 0.25  # between previews
TOUCH_SECONDS = 60  # between the signs of life of a page that is open
KEPT_SECONDS = 180  # that an upload is kept after the last of them, or after a request
CLEANING_SECONDS = 30  # between searches for uploads that are not kept any longer
BRUSH_SHARE = 16  # an image of the model's own size is so many times as wide as the radius of the brush
SYSTEM_FONTS = ["system-ui", "sans-serif"]  # Gradio's own would come from another server
THEME = Default(primary_hue="blue", font=SYSTEM_FONTS, font_mono=["ui-monospace", "monospace"])
# Gradio's own colors of small texts have too little contrast (WCAG 2 AA).
DARKER = "#time, #duration, .playback span, .min_value, .max_value, .or { color: var(--body-text-color) !important }"
CSS = "footer { display: none } #image img { object-fit: contain } " + DARKER

# The figure of a sound. A slider over it, whose thumb is as wide as a second, is the second that is heard.
HEARD_HTML = """
<div class="heard">
  <img src="${value?.figure ?? ''}" alt="Waveform and spectrogram of the sound">
  <input type="range" min="0" max="${value?.latest ?? 0}" step="0.01" value="${value?.start ?? 0}"
    aria-label="The second that is heard, in seconds from the start"
    style="--second: ${100 / ((value?.latest ?? 0) + 1)}%">
</div>
${value?.sound ? `<audio controls src="${value.sound}" aria-label="The sample sound"></audio>` : ''}
"""
HEARD_CSS = f"""
.heard {{ position: relative; line-height: 0 }}
.heard img, audio {{ width: 100% }}
.heard input {{
  appearance: none; position: absolute; left: {LEFT:.0%}; width: {RIGHT - LEFT:.0%}; top: 2%; height: 84%;
  margin: 0; background: none; cursor: pointer
}}
.heard input::-webkit-slider-runnable-track {{ height: 100% }}
.heard input::-webkit-slider-thumb {{
  appearance: none; box-sizing: border-box; width: var(--second); height: 100%;
  border: 3px solid #ff8c00; background: rgb(255 255 255 / 15%); cursor: grab
}}
.heard input::-moz-range-thumb {{
  box-sizing: border-box; width: var(--second); height: 100%; border-radius: 0;
  border: 3px solid #ff8c00; background: rgb(255 255 255 / 15%); cursor: grab
}}
"""
HEARD_JS = "element.addEventListener('change', event => trigger('input', {start: Number(event.target.value)}))"


class _EditedImage(EditorData):
    """What an image editor sends. Gradio itself would take a file in its place for an empty one."""

    @model_validator(mode="before")
    @classmethod
    def refuse_file(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "background" not in data:
            raise gr.Error("image has no background; allowed: background, layers, composite", print_exception=False)
        return data


def build_page(service: ImageService) -> gr.Blocks:
    """The page of a service."""
    _replace_methods()
    limits, model = service.limits, service.model
    defaults = model.sampling_defaults()
    names = list(model.encoders)
    sizes = [f"{width} x {height}" for height, width in service.sizes]
    brush_size = max(service.sizes[0][1] // BRUSH_SHARE, 1)  # Gradio's own covers the whole of a small image
    samples = sorted(path.stem for path in TOY_SAMPLES.glob("*.wav"))

    with gr.Blocks(
        title="Sound to image", delete_cache=(CLEANING_SECONDS, KEPT_SECONDS), analytics_enabled=False
    ) as page:
        gr.Markdown("# Sound to image\nRecord a sound, upload one, or take a sample. Then see what the model draws.")
        with gr.Row():
            with gr.Column():
                sound = gr.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label=f"Sound, up to {limits.seconds} s",
                    buttons=["download"],
                    elem_id="sound",
                    visible=bool(names),
                )
                sample = gr.Dropdown(["", *samples], value="", label="Sample sound", visible=bool(names))
                heard = gr.HTML(html_template=HEARD_HTML, css_template=HEARD_CSS, js_on_load=HEARD_JS, visible=False)
                start = gr.Number(
                    None,
                    label="The second that is heard begins at (s); empty: the loudest second",
                    minimum=0,
                    visible=bool(names),
                )
                text = gr.Textbox("", label="Text, as: at night", max_length=limits.characters, elem_id="text")
                alpha = gr.Slider(0, 1, 0.5, step=0.01, label="Alpha: the share of the text beside the sound")
                with gr.Accordion("More", open=False):
                    encoders = gr.CheckboxGroup(names, value=names[:1], label="Encoders, averaged")
                    weights = gr.Textbox("", label="Weights: one number for each chosen encoder (empty: all alike)")
                    negative = gr.Textbox("", label="What the image should not show", max_length=limits.characters)
                    seed = gr.Number(0, precision=0, label="Seed")
                    steps = gr.Slider(1, limits.steps, min(defaults.steps, limits.steps), step=1, label="Steps")
                    guidance = gr.Slider(0, 20, defaults.guidance, step=0.1, label="Guidance")
                    sampler = gr.Dropdown([OWN_SAMPLER, *SAMPLERS], value=OWN_SAMPLER, label="Sampler")
                    size = gr.Dropdown(sizes, value=sizes[0], label="Size (width x height)")
                    image = gr.ImageEditor(
                        label="Image to start from; draw on it where it may change",
                        sources=["upload"],
                        type="filepath",
                        layers=False,
                        transforms=(),
                        brush=gr.Brush(colors=["#ffffff"], color_mode="fixed", default_size=brush_size),
                        eraser=gr.Eraser(default_size=brush_size),
                        elem_id="start-image",
                    )
                    strength = gr.Slider(0.01, 1, 0.7, step=0.01, label="Strength: how little is left of that image")
                recipe_file = gr.File(
                    label="Again as an image that was downloaded here: drop its PNG file",
                    file_types=[".png"],
                    height=150,
                    elem_id="recipe",
                )
            with gr.Column():
                with gr.Row():
                    generate = gr.Button("Generate", variant="primary", elem_id="generate")
                    strip = gr.Button("Strip over alpha", elem_id="strip")
                    stop = gr.Button("Stop", elem_id="stop")
                status = gr.HTML(_status("Ready."), elem_id="status")
                drawn = gr.Image(
                    label="Image",
                    alt_text="The image that the model drew",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    height=420,
                    elem_id="image",
                )
                with gr.Column(visible=False) as strip_column:
                    gallery = gr.Gallery(
                        label="From the sound alone to the text alone",
                        columns=len(ALPHAS),
                        height=170,
                        interactive=False,
                        elem_id="gallery",
                    )
        inputs = [sound, sample, start, text, alpha, seed, steps, guidance, encoders, weights, negative, sampler, size]
        inputs += [image, strength]
        components = dict(zip(_NAMES, inputs, strict=True))
        jobs_of: defaultdict[str | None, set[ImageJob]] = defaultdict(set)  # those of an open page, by its session

        def read(values) -> ImageRequest:
            return _read_request(service, *values)

        @contextmanager
        def submitted(session: str | None, requests: Sequence[ImageRequest]) -> Iterator[list[ImageJob]]:
            """Jobs that the page's Stop ends, and that end with the block."""
            jobs = []
            try:
                for request in requests:
                    jobs.append(service.submit(request))
                    jobs_of[session].add(jobs[-1])
                yield jobs
            finally:
                for job in jobs:
                    job.stop()  # nothing where it is finished
                jobs_of[session].difference_update(jobs)
                if not jobs_of[session]:
                    del jobs_of[session]

        @_with_arguments_of_a_request
        def draw(request: gr.Request, *values) -> Iterator[tuple[Any, str]]:
            """Draw an image of a sound, of a text, or of both; the last of what comes is the image."""
            with _one_sentence(), submitted(request.session_hash, [read(values)]) as (job,):
                shown = 0.0
                try:
                    for update in job.updates():
                        if update.finished or time.monotonic() - shown >= PREVIEW_SECONDS:
                            shown = time.monotonic()
                            yield update.image, _status(_progress(update))
                except ImageStopped:
                    yield gr.skip(), _status("Stopped.")

        @_with_arguments_of_a_request
        def draw_strip(request: gr.Request, *values) -> Iterator[tuple[Any, str]]:
            """Draw an image for each of five shares of the text."""
            with _one_sentence():
                asked = read(values)
                if asked.sound is None or not asked.text.strip():
                    raise ValueError("a strip over alpha goes from a sound to a text; give both")
                requests = [replace(asked, alpha=share) for share in ALPHAS]
                try:
                    with submitted(request.session_hash, requests) as jobs:
                        for update in jobs[-1].updates():
                            yield gr.skip(), _status(_progress(update))
                        images = [(job.result(), f"alpha {share:g}") for job, share in zip(jobs, ALPHAS, strict=True)]
                except ImageStopped:
                    yield gr.skip(), _status("Stopped.")
                else:
                    yield images, _status("Done.")

        def stop_all(request: gr.Request):
            """Stop what the page draws, which then says so itself."""
            jobs = list(jobs_of.get(request.session_hash, ()))
            for job in jobs:
                job.stop()
            return gr.skip() if jobs else _status("Nothing is being drawn.")

        def describe(sound, sample: str, start: float | None):
            """The figure of a sound, and which second of it is heard: the loudest of an upload, or from `start` on."""
            if sound is None and not sample:
                return gr.update(visible=False), None, ""
            with _one_sentence():
                path = _path_of_sound(sound, "" if sound else sample)
                read = _by_its_name(read_sound, path, limits.seconds)
                begin = read.loudest if sound or start is None else start
                value = {"figure": _inline(draw_sound(read), "image/png"), "latest": max(read.seconds - 1, 0)}
                value["start"] = begin
                if sound is None:
                    value["sound"] = _inline(Path(path).read_bytes(), "audio/wav")
                return gr.update(value=value, visible=True), begin, "" if sound else sample

        def load_recipe(uploaded):
            with _one_sentence():
                recipe = _by_its_name(read_recipe, uploaded["path"])
                values, missing = _read_settings(service, recipe)
                values |= {"sound": None} if values["sample"] else {}
                updates = {components[name]: value for name, value in values.items()}
                return updates | {recipe_file: None, status: _status(" ".join(["The settings are loaded.", *missing]))}

        def touch(sound, image):
            """Keep the uploads of an open page."""
            image = image or {"background": None, "layers": []}
            for upload in (sound, image["background"], *image["layers"]):
                if upload is not None and Path(upload["path"]).is_file():
                    os.utime(upload["path"])

        hidden: dict[str, Any] = {"api_visibility": "private"}
        described = [describe, [sound, sample, start], [heard, start, sample]]
        sound.change(None, [sound, start], start, js="(sound, start) => sound ? null : start", **hidden)
        sound.change(*described, show_progress="minimal", **hidden)
        taken = sample.input(lambda: (None, None), None, [sound, start], queue=False, **hidden)
        taken.then(*described, show_progress="minimal", **hidden)
        loaded = recipe_file.upload(
            load_recipe, recipe_file, [*inputs, recipe_file, status], show_progress="hidden", **hidden
        )
        loaded.then(*described, show_progress="minimal", **hidden)
        heard.input(_moved_to, None, start, queue=False, **hidden)
        start.input(_move_to, [heard, start], heard, queue=False, show_progress="hidden", **hidden)
        gr.Timer(TOUCH_SECONDS).tick(touch, [sound, image], queue=False, show_progress="hidden", **hidden)
        # The queue is the service's: Gradio's own would hold requests back, where the service refuses them.
        shown: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
        generate.click(draw, inputs, [drawn, status], api_name="generate", **shown)
        text.submit(draw, inputs, [drawn, status], **shown, **hidden)
        drawn_strip = strip.click(draw_strip, inputs, [gallery, status], api_name="strip", **shown)
        drawn_strip.success(lambda: gr.update(visible=True), None, strip_column, queue=False, **hidden)
        stop.click(stop_all, None, status, queue=False, show_progress="hidden", **hidden)
    page.queue(max_size=2 * limits.queue, default_concurrency_limit=8, status_update_rate=1)
    return page


def launch_page(
    service: ImageService, host: str, port: int, *, auth: tuple[str, str] | None = None, root_path: str | None = None
) -> gr.Blocks:
    """Serve the page of a service in threads, until it is closed. Uploads go into the process's working folder.

    Args:
        service: what draws; it is warm.
        host: the address to listen at.
        port: the port to listen at.
        auth: a user and the password, which the page asks for; None: nothing.
        root_path: where a proxy puts the page, such as /demo.

    Returns:
        The page.
    """
    # Gradio answers with the paths of uploads: here they are relative ones, which tell nothing of the machine.
    os.environ["GRADIO_TEMP_DIR"] = "uploads"
    page = build_page(service)
    page.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        root_path=root_path,
        max_file_size=service.limits.megabytes * 2**20,
        max_threads=service.limits.queue + 16,
        theme=THEME,
        css=CSS,
        footer_links=[],
        share=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return page


def _read_request(
    service: ImageService,
    sound: Mapping[str, Any] | None = None,
    sample: str = "",
    start: float | None = None,
    text: str = "",
    alpha: float = 0.5,
    seed: int = 0,
    steps: int = 1,
    guidance: float = 1.0,
    encoders: Sequence[str] = (),
    weights: str = "",
    negative: str = "",
    sampler: str = OWN_SAMPLER,
    size: str = "",
    image: Mapping[str, Any] | None = None,
    strength: float = 0.7,
) -> ImageRequest:
    """What the page's inputs, in their order, ask for. Raises ValueError with a sentence.

    The API has the names of these arguments; its defaults are what the page shows at first.
    """
    loaded = None
    if sound is not None or sample:
        path = _path_of_sound(sound, sample)
        _by_its_name(read_sound, path, service.limits.seconds)  # refuses what is too long
        clip = _by_its_name(load_clip, path, start)
        loaded = LoadedSound(clip, SoundRecord(Path(path).name, hash_file(path), clip.start))
    width, height = (int(side) for side in size.split(" x "))
    started, mask = _read_image(image)
    return ImageRequest(
        sound=loaded,
        text=text,
        alpha=alpha,
        encoders=encoders,
        weights=_read_weights(weights),
        negative=negative,
        image=started,
        mask=mask,
        strength=strength,
        seed=int(seed or 0),
        guidance=guidance,
        steps=int(steps),
        sampler=None if sampler == OWN_SAMPLER else sampler,
        height=height,
        width=width,
    )


_PARAMETERS = inspect.signature(_read_request).parameters
_NAMES = list(_PARAMETERS)[1:]  # of the page's inputs, and of the API's arguments


def _read_settings(service: ImageService, recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """What the page's inputs are for the image of a recipe, by name, and sentences that say what is to be uploaded.

    Raises ValueError where the page has no input for something in the recipe.
    """
    fixed = {"random": False, "outpaint": None, "unconditional": "text", "guidance_end": 1.0, "number": 0}
    fixed |= {"loras": (), "textual_inversions": (), "clip_skip": 0, "weighted_prompts": False}
    fixed |= {"controlnet": None, "cache_interval": 1, "merge_tokens": 0.0}
    for name, only in fixed.items():
        if (value := getattr(recipe, name)) != only:
            raise ValueError(f"the image was made with {name} {value}, which the page cannot set")
    if len(recipe.sounds) > 1:
        raise ValueError("the image was made of several sounds, which the page does not mix")
    if recipe.model.name != service.model.origin.get("model"):
        raise ValueError(f"the image was made with the model {recipe.model.name}, which is not the one here")
    if unknown := [encoder.name for encoder in recipe.encoders if encoder.name not in service.model.encoders]:
        raise ValueError(f"the image was made with the encoder {unknown[0]}, which is not here")
    values = {name: getattr(recipe, name) for name in ("alpha", "negative", "seed", "steps", "guidance", "sampler")}
    values |= {"text": recipe.prompt or "", "sample": "", "size": f"{recipe.width} x {recipe.height}"}
    if recipe.strength is not None:
        values["strength"] = recipe.strength
    if recipe.encoders:
        values["encoders"] = [encoder.name for encoder in recipe.encoders]
        weights = [encoder.weight for encoder in recipe.encoders]
        values["weights"] = " ".join(map(repr, weights)) if len(set(weights)) > 1 else ""
    missing = [f"Upload {record.name}, which it began with." for record in (recipe.image, recipe.mask) if record]
    for record in recipe.sounds:
        values["start"] = record.start
        sample = TOY_SAMPLES / (record.name or "")
        if sample.is_file() and hash_file(sample) == record.sha256:
            values["sample"] = sample.stem
        else:
            missing.append(f"Upload its sound, {record.name}, of which the second from {record.start:g} s is heard.")
    return values, missing


def _path_of_sound(sound: Mapping[str, Any] | None, sample: str) -> str:
    """The path of an upload or of a sample sound, of which there is one."""
    if sound is None:
        return str(sound_source(sample))
    if sample:
        raise ValueError("there are a sound and a sample; give one of them")
    return sound["path"]


def _read_image(image: Mapping[str, Any] | None) -> tuple[Image.Image | None, Image.Image | None]:
    """The image to start from, and the mask that was drawn on it; None where there is none."""
    if image is None or image["background"] is None:
        return None, None
    mask = None
    for layer in image["layers"]:
        drawn = _by_its_name(load_image, layer["path"])
        drawn = drawn.getchannel("A") if "A" in drawn.getbands() else drawn.convert("L")
        mask = drawn if mask is None else ImageChops.lighter(mask, drawn.resize(mask.size))
    return _by_its_name(load_image, image["background"]["path"]), mask if mask and mask.getbbox() else None


def _by_its_name(read: Callable, path: str, *rest):
    """`read(path, *rest)`, whose errors call the file by its name, without its folder."""
    name = Path(path).name
    if not Path(path).is_file():
        raise ValueError(f"{name} is not kept any longer; upload it again")
    try:
        return read(path, *rest)
    except USER_ERRORS as error:
        raise ValueError(str(error).replace(path, name)) from None


def _as_sent(payload: Any) -> Any:
    """The files that a component sends, which nothing has opened."""
    return None if payload is None else payload.model_dump()


async def _refuse_url(path: str) -> str:
    """The path of an upload; Gradio itself would have the server load what is at a URL."""
    if "://" in path:
        raise gr.Error("a URL is not loaded; upload the file", print_exception=False)
    return path


def _with_arguments_of_a_request(function: Callable) -> Callable:
    """A function of a request and the page's inputs, under whose names the API takes them."""
    parameters = [inspect.signature(function).parameters["request"], *(_PARAMETERS[name] for name in _NAMES)]
    function.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return function


def _read_weights(text: str) -> list[float] | None:
    try:
        return [float(word) for word in text.replace(",", " ").split()] or None
    except ValueError:
        raise ValueError("weights are numbers with spaces between them, one for each chosen encoder") from None


def _moved_to(event: gr.EventData) -> float:
    """Where the second that is heard was dragged to."""
    return event.start


def _move_to(heard: dict[str, Any] | None, start: float | None):
    """The figure of a sound with the second that is heard at another place."""
    return gr.skip() if heard is None or start is None else {**heard, "start": start}


def _replace_methods():
    """Give Gradio's components our methods in place of theirs.

    The classes have them, for at an update Gradio makes another component in the place of the page's own.
    """
    # What damaged files do is not for Gradio to say.
    upload = {"preprocess": _as_sent, "async_move_resource_to_block_cache": _refuse_url}
    replaced: dict[Any, dict[str, Callable]] = {
        gr.Audio: upload,
        gr.ImageEditor: upload,
        gr.File: upload,
        gr.Image: {"postprocess": _optional_inline_image},
        gr.Gallery: {"postprocess": _inline_images},
    }
    for component, methods in replaced.items():
        for name, method in methods.items():
            setattr(component, name, staticmethod(method))
    gr.ImageEditor.data_model = _EditedImage


def _inline_image(image: Image.Image) -> ImageData:
    """An image within the answer, with its recipe."""
    memory = io.BytesIO()
    save_png(image, memory)
    return ImageData(url=_inline(memory.getvalue(), "image/png"), orig_name="image.png", mime_type="image/png")


def _optional_inline_image(image: Image.Image | None) -> ImageData | None:
    return None if image is None else _inline_image(image)


def _inline_images(images: Sequence[tuple[Image.Image, str]] | None) -> GalleryData:
    return GalleryData(
        root=[GalleryImage(image=_inline_image(image), caption=caption) for image, caption in images or ()]
    )


def _inline(content: bytes, media_type: str) -> str:
    """A data URL."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _progress(update: ImageUpdate) -> str:
    if update.finished:
        return "Done."
    if update.ahead:
        return f"{update.ahead} images are drawn before yours."
    return f"Step {update.done} of {update.steps}."


def _status(sentence: str) -> str:
    return f'<p role="status">{html.escape(sentence)}</p>'


@contextmanager
def _one_sentence() -> Iterator[None]:
    """A mistake as one sentence on the page."""
    try:
        yield
    except USER_ERRORS as error:
        sentence = " ".join(str(error).split())
        raise gr.Error(html.escape(sentence, quote=False), print_exception=False) from None
    except Exception:
        traceback.print_exc()
        raise gr.Error(UNEXPECTED, print_exception=False) from None

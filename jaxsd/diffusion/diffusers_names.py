"""What diffusers calls things, for those who come from there: a name that is not here leads to the one that is."""

from collections.abc import Iterable, Mapping

# Of the arguments of a pipeline: our name, or a sentence.
CALL_ARGUMENTS = {
    "prompt": "cond",
    "prompt_embeds": "cond",
    "negative_prompt": "uncond",
    "negative_prompt_embeds": "uncond",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "generator": "key",
    "mask_image": "mask",
    "callback": "on_step",
    "callback_steps": "on_step is called after every step",
    "callback_on_step_end_tensor_inputs": "callback_on_step_end gets the latents",
    "cross_attention_kwargs": "pipe.loras[name].weight is the scale of a LoRA",
    "timesteps": "steps and sampler choose them",
    "sigmas": "steps and sampler choose them",
    "controlnet_conditioning_scale": "control_scale",
    "eta": "ddim has eta 0, and the samplers euler_a, lcm and tcd add noise on their way",
    "clip_skip": "pipe.clip_skip can be assigned, and is of negative texts too",
    "return_dict": "the images are returned as they are",
}
# Of those of `SoundToImage`, where they are called otherwise than in the pipeline.
SOUND_ARGUMENTS = {"prompt": "prompts", "negative_prompt": "negative", "generator": "seed"}
LOADING_ARGUMENTS = {
    "torch_dtype": "dtype",
    "pretrained_model_name_or_path": "source",
    "scheduler": "sampler= of a call chooses one",
    "safety_checker": "there is none",
    "requires_safety_checker": "there is none",
    "feature_extractor": "there is none",
    "use_safetensors": "safetensors files are preferred",
    "controlnet": "pipe.load_controlnet loads one",
    "device_map": "jax.default_device chooses the device",
    "text_encoder": "pipe.text_encoder can be assigned",
    "unet": "pipe.unet can be assigned",
}
PIPELINE_ATTRIBUTES = {
    "load_lora_weights": "load_lora",
    "fuse_lora": "merge_loras",
    "unload_lora_weights": "pipe.loras.clear() removes all",
    "delete_adapters": "del pipe.loras[name] removes one",
    "set_adapters": "pipe.loras[name].weight is what it sets",
    "unload_textual_inversion": "del pipe.textual_inversions[token] removes one",
    "encode_prompt": "encode_text",
    "scheduler": "pipe.schedule is the noise schedule, and sampler= of a call chooses the rule",
    "to": "jax.default_device chooses the device, and dtype= of from_pretrained the type",
    "enable_attention_slicing": "the attention that a device has is chosen by itself",
    "enable_xformers_memory_efficient_attention": "the attention that a device has is chosen by itself",
    "enable_vae_tiling": "large images are decoded in tiles by themselves",
    "enable_vae_slicing": "large images are decoded in tiles by themselves",
    "enable_model_cpu_offload": "the networks stay on the device",
    "enable_sequential_cpu_offload": "the networks stay on the device",
    "progress_bar": "on_step of a call follows the steps",
}


def explain(name: str, ours: Mapping[str, str]) -> str:
    """What follows after "there is no <name>": what it is here, or nothing where nobody knows."""
    if name not in ours:
        return ""
    return f"; {ours[name]}" if " " in ours[name] else f"; {ours[name]} is its name here"


def refuse_unknown(what: str, unknown: Iterable[str], ours: Mapping[str, str]) -> None:
    """Raise TypeError where `what` was called with an argument that it has not."""
    for name in unknown:
        raise TypeError(f"{what} takes no argument {name!r}{explain(name, ours)}")

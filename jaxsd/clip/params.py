"""transformers' CLIPModel and CLIPTextModel <-> `jaxsd.clip.towers`."""

from jaxsd.pretrained.mapping import Rule, module

CLIP_IGNORED = (r".*position_ids",)  # a buffer: 0, 1, 2, and so on


def text_ignored(prefix: str, layers: int) -> tuple[str, ...]:
    """Names that a text tower of so many layers has no use for. They begin with the regex `prefix`.

    A config with fewer layers than the file has asks for the earlier hidden states ("clip skip"), as in transformers.
    The text projection belongs to CLIP; Stable Diffusion does not use it.
    """
    return (*CLIP_IGNORED, rf"{prefix}encoder\.layers\.{_at_least(layers)}\..+", r"(.*\.)?text_projection(\.weight)?")


def _at_least(number: int) -> str:
    """A regex of the whole numbers from `number` up to 999."""
    return f"({'|'.join(map(str, range(number, 1000)))})"


def tower(source: str, target: str) -> tuple[Rule, ...]:
    """The rules of one tower. Its names begin with `source` in transformers and with `target` in ours."""
    return (
        *module(f"{source}embeddings.{{name}}", f"{target}{{name}}", "embedding", name=r"\w+_embedding"),
        *module(
            f"{source}encoder.layers.{{n}}.{{name}}",
            f"{target}layers.{{n}}.{{name}}",
            "linear",
            n=r"\d+",
            name=r"self_attn\.[qkv]_proj|self_attn\.out_proj|mlp\.fc[12]",
        ),
        *module(
            f"{source}encoder.layers.{{n}}.{{name}}",
            f"{target}layers.{{n}}.{{name}}",
            "norm",
            n=r"\d+",
            name="layer_norm[12]",
        ),
        *module(f"{source}{{name}}", f"{target}{{name}}", "norm", name="final_layer_norm|post_layernorm"),
    )


# transformers 5 writes the text tower alone without the prefix; older versions write the prefix. Both read both.
TEXT_MAPPING = (*tower("text_model.", ""), *tower("", ""))

CLIP_MAPPING = (
    Rule("vision_model.embeddings.class_embedding", "vision_model.class_embedding"),
    Rule("vision_model.embeddings.patch_embedding.weight", "vision_model.patch_embedding.kernel", "conv2d"),
    *module("vision_model.pre_layrnorm", "vision_model.pre_layernorm", "norm"),  # sic
    *tower("text_model.", "text_model."),
    *tower("vision_model.", "vision_model."),
    *module("{name}_projection", "{name}_projection", "linear", name="text|visual"),
    Rule("logit_scale", "logit_scale"),
)

"""diffusers' AutoencoderKL <-> `jaxsd.diffusion.vae.VAE`."""

from jaxsd.pretrained.mapping import module

VAE_ATTENTION = r".*\.mid_block\.attentions\.0"

VAE_MAPPING = (
    *module("{path}.downsamplers.0.conv", "{path}.downsample.conv", "conv2d", path=".*"),
    *module("{path}.upsamplers.0.conv", "{path}.upsample.conv", "conv2d", path=".*"),
    *module("{path}.{name}", "{path}.attention.{name}", "linear", path=VAE_ATTENTION, name="to_q|to_k|to_v"),
    *module("{path}.to_out.0", "{path}.attention.to_out", "linear", path=VAE_ATTENTION),
    # The names before diffusers 0.18, as in the published SD 1.5.
    *module("{path}.query", "{path}.attention.to_q", "linear", path=VAE_ATTENTION),
    *module("{path}.key", "{path}.attention.to_k", "linear", path=VAE_ATTENTION),
    *module("{path}.value", "{path}.attention.to_v", "linear", path=VAE_ATTENTION),
    *module("{path}.proj_attn", "{path}.attention.to_out", "linear", path=VAE_ATTENTION),
    *module(
        "{path}",
        "{path}",
        "conv2d",
        path=r"(.*\.)?(conv_in|conv_out|conv1|conv2|conv_shortcut|quant_conv|post_quant_conv)",
    ),
    *module("{path}", "{path}", "norm", path=r"(.*\.)?(norm1|norm2|group_norm|conv_norm_out)"),
)

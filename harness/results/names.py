"""Names of tasks, and of the metrics that reports look up in records.

Names are part of the format of a record: never change one. Not every metric is listed. A report
shows others under the name that they have on file.
"""

PERPLEXITY = "perplexity"
PERPLEXITY_LLAMA_CPP = "perplexity_llama_cpp"
PERPLEXITY_DOCUMENTS = "perplexity_documents"
MMLU = "mmlu"
MMLU_GENERATE = "mmlu_generate"
MMLU_CLOZE = "mmlu_cloze"
DIVERGENCE = "divergence"
NOISE_FLOOR = "noise_floor"
PARITY = "parity"
THROUGHPUT = "throughput"
THROUGHPUT_VLLM = "throughput_vllm"
MATMUL = "matmul"

PERPLEXITIES = (PERPLEXITY, PERPLEXITY_LLAMA_CPP, PERPLEXITY_DOCUMENTS)
"""Tasks whose samples hold the log-loss of tokens, the preferred task first."""
MMLU_TASKS = (MMLU, MMLU_GENERATE, MMLU_CLOZE)
"""Tasks whose samples are answers, the preferred task first."""
TIMED = (THROUGHPUT, THROUGHPUT_VLLM)
"""Tasks that measure speed."""

# Perplexity and MMLU
NLL = "nll"
PARSE_RATE = "parse_rate"
ACCURACY_FIRST_CHAR = "accuracy_first_char"
TIES = "ties"

# Divergence and the noise floor: two models on the same tokens
KL_MEAN = "kl_mean"
KL_MEDIAN = "kl_median"
KL_P99 = "kl_p99"
KL_MAX = "kl_max"
SAME_TOP = "same_top"
DELTA_P_RMS = "delta_p_rms"
LN_PPL_RATIO = "ln_ppl_ratio"

# Divergence: two models on the same questions
LEAD = "lead"
FLIPS = "flips"
FLIPS_TO_WRONG = "flips_to_wrong"
FLIPS_TO_RIGHT = "flips_to_right"
FLIPS_P = "flips_p"
ANSWER_DISAGREEMENT = "answer_disagreement"
ACCURACY = "accuracy"
ACCURACY_BASELINE = "accuracy_baseline"

# Parity: a real backend beside its fake-quantized form
LAYER_DIFFERENCE = "layer_difference"
WITHIN_TOLERANCE = "within_tolerance"
LOGPROB_DIFFERENCE_MAX = "logprob_difference_max"
KL = "kl"
TOP1_AGREEMENT = "top1_agreement"
FLOAT_KL_FAKE = "float_kl_fake"
FLOAT_KL_REAL = "float_kl_real"

# Throughput. The speed of a phase has the name of the phase.
DECODE = "decode"
PREFILL = "prefill"
PHASES = (DECODE, PREFILL)
IQR = "_iqr"
"""End of the name of a spread: `decode_iqr` is the interquartile range of `decode`."""
RATIO = "_ratio"
"""End of the name of a ratio to the unquantized model with native matmuls: `decode_ratio`."""
RATIO_FLOAT32 = "_ratio_float32"
"""The ratio to the unquantized model with float32 matmuls."""
RATIO_BEST = "_ratio_best"
"""The ratio to the faster way of the unquantized model."""
BASELINE = "baseline_"
"""Beginning of the name of a speed of the unquantized model: `baseline_decode`, native matmuls."""
BASELINE_FLOAT32 = "baseline_float32_"
"""The speed of the unquantized model with float32 matmuls."""
BASELINE_DRIFT = "baseline_drift"
TTFT = "ttft"
TPOT = "tpot"
DECODE_MBU = "decode_mbu"
PREFILL_MFU = "prefill_mfu"
WEIGHT_BYTES = "weight_bytes"
KV_BYTES = "kv_bytes"
ENERGY_PER_TOKEN = "energy_per_token"  # noqa: S105 - a metric, not a secret

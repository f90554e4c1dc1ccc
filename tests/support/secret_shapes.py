"""Tokens in the shapes of their providers."""

import string

import numpy as np

LETTERS = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + string.digits
RANDOM = np.random.default_rng(0)


def drawn(alphabet: str, length: int) -> str:
    """Return random letters: no real secret stands in this file, and no scanner finds one."""
    return "".join(RANDOM.choice(list(alphabet), length))


B64 = LETTERS + "-_"
SHAPES = {
    "Hugging Face": "hf_" + drawn(LETTERS, 34),
    "Hugging Face organization": "api_org_" + drawn(LETTERS, 34),
    "OpenAI": "sk-" + drawn(LETTERS, 48),
    "OpenAI project": "sk-proj-" + drawn(B64, 120),
    "OpenAI service": "sk-svcacct-" + drawn(B64, 120),
    "Anthropic": "sk-ant-api03-" + drawn(B64, 93) + "AA",
    "OpenRouter": "sk-or-v1-" + drawn(HEX, 64),
    "GitHub": "ghp_" + drawn(LETTERS, 36),
    "GitHub app": "ghs_" + drawn(LETTERS, 36),
    "GitHub fine-grained": "github_pat_" + drawn(LETTERS, 22) + "_" + drawn(LETTERS, 59),
    "GitLab": "glpat-" + drawn(B64, 20),
    "AWS": "AKIA" + drawn(UPPER, 16),
    "AWS session": "ASIA" + drawn(UPPER, 16),
    "AWS with its secret": "AKIA" + drawn(UPPER, 16) + ":" + drawn(LETTERS + "/+", 40),
    "Slack bot": f"xoxb-{drawn('0123456789', 12)}-{drawn('0123456789', 12)}-{drawn(LETTERS, 24)}",
    "Slack user": f"xoxp-{drawn('0123456789', 12)}-{drawn(LETTERS, 32)}",
    "Google": "AIza" + drawn(B64, 35),
    "Google OAuth": "ya29." + drawn(B64, 60),
    "JSON web token": f"eyJ{drawn(B64, 33)}.eyJ{drawn(B64, 60)}.{drawn(B64, 43)}",
    "Stripe": "sk_live_" + drawn(LETTERS, 24),
    "NVIDIA": "nvapi-" + drawn(B64, 64),
    "Groq": "gsk_" + drawn(LETTERS, 52),
    "Replicate": "r8_" + drawn(LETTERS, 37),
    "npm": "npm_" + drawn(LETTERS, 36),
    "PyPI": "pypi-" + drawn(B64, 100),
    "Docker": "dckr_pat_" + drawn(B64, 27),
    "SendGrid": f"SG.{drawn(B64, 22)}.{drawn(B64, 43)}",
}

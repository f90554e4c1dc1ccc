r"""MMLU: four-choice questions of 57 subjects, each after solved examples of its subject.

The model continues this text (with one example here; the default is five):

    The following are multiple choice questions (with answers) about anatomy.

    Which bone is the longest?\nA. Femur\nB. Tibia\nC. Ulna\nD. Rib\nAnswer: A

    Which of these is a muscle?\nA. Axon\nB. Liver\nC. Biceps\nD. Retina\nAnswer:

1. `questions` draws the questions; `template` has the words of prompts, byte for byte those of
   lm-eval 0.4.13, and `prompt` encodes them.
2. `mmlu` asks an engine about all prompts at once. With `answers`, one run has several rules.
3. An `AnswerRule` takes the answer. `direct` takes the most likely of the tokens " A" to " D" after
   the prompt, by float64 log-probabilities. `generate` parses up to 5 tokens of greedy decoding.
   `cloze` has prompts without the choices, and takes the most likely text for its length. `ties`
   serves the two rules that compare log-probabilities.
4. `accuracy` is the share of right answers: over questions (the headline) and over subjects.
"""

from harness.tasks.mmlu.answer_rule import AnswerRule
from harness.tasks.mmlu.cloze import Cloze
from harness.tasks.mmlu.direct import Direct
from harness.tasks.mmlu.generate import Generate
from harness.tasks.mmlu.mmlu import MMLU

__all__ = ["MMLU", "AnswerRule", "Cloze", "Direct", "Generate"]

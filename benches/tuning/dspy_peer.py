"""One tuning by DSPy over an endpoint: MIPROv2, GEPA, KNNFewShot, or nothing. Used by `against_dspy.py`.

DSPy's own chat form ("[[ ## field ## ]]" around everything) is one that the demo's base was never shown; what it would score was not
measured. So questions and answers of the task are laid out as tunebench lays them out: instruction, examples as `Input:` and
`Answer:`, the input. What DSPy asks a proposer keeps DSPy's own form. Its cache is on: what is answered from there reaches no server
and is not counted.
"""

import logging
import os
import random

os.environ.setdefault("DSPY_CACHEDIR", os.path.join(os.environ.get("TMPDIR", "/tmp"), f"dspy-cache-{os.getpid()}"))
import dspy
import numpy as np
from dspy.utils.exceptions import AdapterParseError

logging.getLogger("dspy").setLevel(logging.ERROR)
logging.getLogger("LiteLLM").setLevel(logging.ERROR)


class Plain(dspy.ChatAdapter):
    """The task's questions in plain words; all others as DSPy puts them."""

    def __init__(self):
        super().__init__(use_json_adapter_fallback=False)

    @staticmethod
    def is_task(signature):
        return list(signature.output_fields) == ["answer"] and list(signature.input_fields) == ["message"]

    def format(self, signature, demos, inputs):
        if not self.is_task(signature):
            return super().format(signature, demos, inputs)
        text = inputs["message"]
        if demos:
            shown = [f"Input: {d['message']}\nAnswer: {d['answer']}\n\n" for d in demos if d.get("answer")]
            text = "".join(shown) + f"Input: {inputs['message']}\nAnswer:"
        return [{"role": "user", "content": f"{signature.instructions}\n\n{text}"}]

    def parse(self, signature, completion):
        if not self.is_task(signature):
            try:
                return super().parse(signature, completion)
            except AdapterParseError:
                # A proposer that knows no forms has said something all the same.
                return {field: completion.strip() or "Answer." for field in signature.output_fields}
        if not completion.strip():
            raise AdapterParseError(adapter_name="Plain", signature=signature, lm_response=completion)
        return {"answer": completion.strip()}


def right(example, prediction, trace=None, *_):
    return plain(example.answer) == plain(getattr(prediction, "answer", ""))


def plain(text):
    return str(text).strip().strip(".").strip().lower()


def feedback(example, prediction, trace=None, pred_name=None, pred_trace=None):
    said = getattr(prediction, "answer", "")
    score = float(plain(example.answer) == plain(said))
    words = "Right." if score else f"Wrong: the answer `{said}` should be `{example.answer}`."
    return dspy.Prediction(score=score, feedback=words)


class Base(dspy.LM):
    """The base as a proposer: it has 1,024 tokens of context, and DSPy's questions more, so their ends are kept."""

    def forward(self, prompt=None, messages=None, **kwargs):
        turns = messages or [{"role": "user", "content": prompt}]
        turns = [{**t, "content": str(t["content"])[-1600 // len(turns) :]} for t in turns]
        return super().forward(messages=turns, **kwargs)


class TfIdf:
    """Vectors without a model, for KNNFewShot: TF-IDF of words and pairs of words over the train rows."""

    def __init__(self, texts):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(texts)

    def __call__(self, texts):
        return np.asarray(self.words.transform(texts).todense())


def examples(rows):
    return [dspy.Example(message=r["input"], answer=r["gold"]).with_inputs("message") for r in rows]


def tune(how, start, rows, endpoint, model, critic, budget, seed, threads=4, labels=()):
    """A tuned program. `rows`: train, dev. `budget`: calls of the model; MIPROv2 and GEPA are set up to use about as many."""
    lm = dspy.LM(f"openai/{model}", api_base=endpoint, api_key="none", max_tokens=6, temperature=0.0, num_retries=0)
    proposer = (dspy.LM if critic else Base)(
        f"openai/{'critic' if critic else model}", api_base=endpoint, api_key="none", max_tokens=200 if critic else 40, temperature=1.0, num_retries=0
    )
    dspy.configure(lm=lm, adapter=Plain())
    random.seed(seed)
    train, dev = examples(rows["train"]), examples(rows["dev"])
    random.Random(seed).shuffle(train)
    random.Random(seed).shuffle(dev)
    program = dspy.Predict(dspy.Signature("message -> answer", start))
    if how == "start":
        return program, lm
    if how.startswith("KNNFewShot"):
        vectors = TfIdf([f"message: {r['input']}" for r in rows["train"]])
        k = int(how.split("k=")[1])
        knn = dspy.KNNFewShot(k=k, trainset=train, vectorizer=vectors, metric=right, max_bootstrapped_demos=k, max_labeled_demos=k)
        return knn.compile(program), lm
    if how.startswith("MIPROv2"):
        # Its own `auto` settings by budget: about 100 + 10*35 + 3*100 calls for light, 300 + 18*35 + 4*300 for medium.
        auto = "light" if budget < 1800 else "medium" if budget < 6000 else "heavy"
        demos = 0 if "0-shot" in how else 4
        mipro = dspy.MIPROv2(
            metric=right, prompt_model=proposer, task_model=lm, auto=auto, num_threads=threads, seed=seed, max_errors=10**6,
            max_bootstrapped_demos=demos, max_labeled_demos=demos,
        )
        return mipro.compile(program, trainset=train, valset=dev), lm
    if how == "GEPA":
        gepa = dspy.GEPA(
            metric=feedback, max_metric_calls=budget, reflection_lm=proposer, num_threads=threads, seed=seed, track_stats=False,
        )
        # It scores every accepted version on all of the dev rows it is given: a share of the budget that leaves room for 15 of them.
        return gepa.compile(program, trainset=train, valset=dev[: max(40, min(len(dev), budget // 16))]), lm
    raise ValueError(how)


def score(program, lm, rows, threads=4):
    """Accuracy on rows, each asked anew."""
    lm.cache = False
    scored = dspy.Evaluate(devset=examples(rows), metric=right, num_threads=threads, display_progress=False, max_errors=10**6)(program)
    return float(scored.score) / 100.0


def instruction(program):
    predictors = program.predictors()
    return predictors[0].signature.instructions, len(predictors[0].demos)

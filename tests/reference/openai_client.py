"""The public `openai` client against a running `tunebench serve`: by hand, not in CI.

    pip install openai
    tunebench serve tests/fixtures/models/qwen2 --port 8080          (or any model, run or candidate)
    python tests/reference/openai_client.py http://127.0.0.1:8080/v1 TOKEN_FILE
"""

import sys

import openai

url, token_file = sys.argv[1:3]
client = openai.OpenAI(base_url=url, api_key=open(token_file).read(), max_retries=0)
model = sys.argv[3] if len(sys.argv) > 3 else client.models.list().data[0].id
hello = [{"role": "user", "content": "My card was declined"}]


def refused(kind, **request):
    try:
        client.chat.completions.create(**{"model": model, "messages": hello, **request})
    except kind as error:
        print(f"  {kind.__name__}: {error.code} {error.param}: {str(error.body['message'])[:70]}")
        return
    sys.exit(f"{request} was not refused with {kind.__name__}")


print("models", [m.id for m in client.models.list()], client.models.retrieve(model).owned_by)

whole = client.chat.completions.create(model=model, messages=hello, temperature=0, max_tokens=16)
print("chat", repr(whole.choices[0].message.content), whole.choices[0].finish_reason, whole.usage.total_tokens)

text, usage = "", None
stream = client.chat.completions.create(
    model=model, messages=hello, temperature=0, max_tokens=16, stream=True, stream_options={"include_usage": True}
)
pieces = 0
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        pieces += bool(choice.delta.content)
assert text == whole.choices[0].message.content and usage == whole.usage, (text, usage)
print("stream", pieces, "pieces, the same text and usage")

several = client.completions.create(model=model, prompt=["one", "two"], n=2, max_tokens=5, seed=3, stop=["."])
assert [c.index for c in several.choices] == [0, 1, 2, 3]
print("completions", [c.text for c in several.choices])

told = client.chat.completions.create(
    model=model, messages=hello, temperature=0, max_tokens=4, logprobs=True, top_logprobs=2
)
content = told.choices[0].logprobs.content
# The token that ends an answer is counted and has no text to tell of.
assert told.usage.completion_tokens - len(content) in (0, 1), content
assert all(len(t.top_logprobs) == 2 for t in content), content
assert all(t.top_logprobs[0].logprob >= t.logprob - 1e-4 for t in content)
print("logprobs", [(t.token, round(t.logprob, 3)) for t in content])
told = client.completions.create(model=model, prompt="one", max_tokens=3, logprobs=1)
print("logprobs of a completion", told.choices[0].logprobs.tokens, told.choices[0].logprobs.text_offset)

schema = {
    "type": "object",
    "properties": {"team": {"enum": ["cards", "loans"]}},
    "required": ["team"],
    "additionalProperties": False,
}
format = {"type": "json_schema", "json_schema": {"name": "route", "schema": schema, "strict": True}}
formed = client.chat.completions.create(model=model, messages=hello, max_tokens=40, response_format=format)
print("json_schema", formed.choices[0].message.content)

print("errors")
refused(openai.NotFoundError, model="nothing")
refused(openai.BadRequestError, temperature=9)
refused(openai.BadRequestError, messages=[{"role": "user", "content": "word " * 100_000}])
refused(openai.BadRequestError, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}})
try:
    openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
    sys.exit("a wrong key was taken")
except openai.AuthenticationError as error:
    print("  AuthenticationError:", error.code)

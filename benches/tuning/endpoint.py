"""An OpenAI-compatible endpoint that counts: questions for the model are passed on to `tunebench serve`, those for the model named
`critic` are answered from a list (CRITIC below), the same list in the same order for everybody who asks.

It counts at the server, whatever a tuner says of itself: questions about eval rows (scoring) apart from the others (tuning).
"""

import http.client
import http.server
import json
import random
import re
import threading

# What a critic that has read the task might propose, good and bad, in an order drawn by the seed. Nobody looked at scores for it.
INSTRUCTIONS = """\
Which team should handle this message? Name only the team.
Read the message and decide who is responsible.
Classify the message.
What is this message about?
Name the topic of this message.
What does the customer want?
Name the problem in this message.
What is the problem in this message? Answer with one word.
You are a support agent. Route this message to the right place.
What is the topic of this message?
Assign a category to the text below.
Think about what the customer has, then about what is wrong with it, and answer with one word.
Answer with the department that should deal with this.
What is the subject of this message?
Give the topic of the message. Answer with the topic only.
What went wrong for this customer?
Label the message by the product that it is about.
Find the main issue in this message and name it.
Summarize the customer's request in one word.
Decide which problem the customer has with the product.
Be careful: wrong answers cost the company money. Which label fits best?
Which problem does this message report?
Name the product or service that this message is about.
Classify this message by topic.
Classify this message by problem.
Choose the best label for the following customer message.
Tell me the kind of problem, in one word.
Read the message and choose the one topic that fits best.
Read the message and choose the one problem that fits best.
Is the customer angry? Then route with priority; name the team.
""".splitlines()


class Critic:
    """Answers in the form that is asked for: ours, DSPy's fields, or GEPA's block."""

    def __init__(self, seed):
        self.lock, self.asked, self.rng = threading.Lock(), 0, random.Random(seed)
        self.order = []

    def instruction(self):
        with self.lock:
            self.asked += 1
            if not self.order:
                self.order = self.rng.sample(INSTRUCTIONS, len(INSTRUCTIONS))
            return self.order.pop()

    def answer(self, text):
        if "</prompt>" in text:
            return f"The prompt does not say what is asked for.\n<prompt>\n{self.instruction()}\n\n{{{{ input }}}}\n</prompt>"
        if "```" in text and "[[ ##" not in text:
            return f"```\n{self.instruction()}\n```"
        # DSPy's chat form: every field it wants is named in its last sentence or in the outline of its system prompt.
        wanted = re.findall(r"\d+\. `(\w+)` \(", text.split("Your output fields are:")[-1].split("All interactions")[0])
        wanted = wanted or re.findall(r"\[\[ ## (\w+) ## \]\]", text)[-1:]
        said = lambda field: self.instruction() if field.endswith("_instruction") else "Messages of customers to a support desk, and one word for each."
        if "Respond with a JSON object" in text:
            wanted = re.findall(r"`(\w+)`", text.rsplit("Respond with a JSON object", 1)[1])
            return json.dumps({field: said(field) for field in wanted})
        return "".join(f"[[ ## {field} ## ]]\n{said(field)}\n\n" for field in wanted) + "[[ ## completed ## ]]"


class Endpoint:
    """`upstream`: (host, port, token) of `tunebench serve`; `eval_inputs`: what counts as scoring when it is asked about."""

    def __init__(self, upstream, model, seed, eval_inputs):
        self.upstream, self.model, self.critic = upstream, model, Critic(seed)
        self.eval_inputs = eval_inputs
        self.lock = threading.Lock()
        self.counts = dict(tuning=0, scoring=0, critic=0, failed=0, tokens=0)
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def reply(self, status, body, kind="application/json"):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.reply(200, json.dumps({"object": "list", "data": [{"id": endpoint.model}, {"id": "critic"}]}).encode())

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = json.loads(body)
                self.reply(*endpoint.answer(self, asked))

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] += n

    def answer(self, connection, asked):
        turns = [turn["content"] for turn in asked["messages"]]
        turns = [t if isinstance(t, str) else "".join(part.get("text", "") for part in t) for t in turns]
        if asked["model"] == "critic":
            self.count("critic")
            text = self.critic.answer("\n".join(turns))
            return self.completion(asked, text)
        # The row's own input stands last; examples before it are from other rows.
        last = turns[-1].rsplit("Input:", 1)[-1]
        self.count("scoring" if any(text in last for text in self.eval_inputs) else "tuning")
        headers = {"Authorization": f"Bearer {self.upstream[2]}", "Content-Type": "application/json"}
        for attempt in range(3):
            upstream = getattr(connection, "upstream", None)
            if upstream is None:
                upstream = connection.upstream = http.client.HTTPConnection(*self.upstream[:2], timeout=600)
            try:
                upstream.request("POST", "/v1/chat/completions", json.dumps(asked), headers)
                got = upstream.getresponse()
                body = got.read()
                break
            except (http.client.HTTPException, OSError):
                # A connection that was idle for long is closed by the other side.
                upstream.close()
                connection.upstream = None
                if attempt == 2:
                    raise
        if got.status != 200:
            self.count("failed")
        return got.status, body, got.getheader("Content-Type")

    def completion(self, asked, text):
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        head = {"id": "c", "created": 0, "model": "critic"}
        if not asked.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            body = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return 200, json.dumps(body).encode()
        head["object"] = "chat.completion.chunk"
        deltas = [
            {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage},
        ]
        body = "".join(f"data: {json.dumps(delta)}\n\n" for delta in deltas) + "data: [DONE]\n\n"
        return 200, body.encode(), "text/event-stream"

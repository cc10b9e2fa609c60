//! `tunebench serve`: over real HTTP, by clients that mean well and by others.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tunebench::domain::event::EventBody;

use super::engine::bench::{Bench, until};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

/// Where a server listens, and what it wants to see.
struct Http {
    port: u16,
    token: String,
}

/// Status, head and body of a reply.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.head, self.body))
    }

    /// The parts of a stream; the last one is `[DONE]`, or an error.
    fn parts(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.head.to_lowercase().contains("content-type: text/event-stream"), "{}", self.head);
        let mut parts: Vec<&str> = self.body.split("\n\n").collect();
        assert_eq!(parts.pop(), Some(""), "the last part is whole");
        assert_eq!(parts.pop(), Some("data: [DONE]"), "{}", self.body);
        parts.iter().map(|part| serde_json::from_str(part.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

fn read_reply(stream: &mut impl std::io::Read) -> Option<Reply> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| {
        head.lines()
            .find_map(|l| l.to_lowercase().strip_prefix(&format!("{name}: ")).map(|v| v.trim().to_owned()))
    };
    let mut body = Vec::new();
    if let Some(length) = field("content-length") {
        body.resize(length.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    } else if field("transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; length + 2];
            reader.read_exact(&mut chunk).ok()?;
            if length == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
    Some(Reply { status, head, body: String::from_utf8(body).ok()? })
}

impl Http {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    fn head(&self, method: &str, path: &str, more: &str, length: usize) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {}\r\n{more}Content-Length: {length}\r\n\r\n",
            self.port, self.token
        )
    }

    /// Whatever bytes; the first reply to them.
    fn raw(&self, bytes: &[u8]) -> Option<Reply> {
        let mut stream = self.connect();
        stream.write_all(bytes).ok()?;
        read_reply(&mut stream)
    }

    fn get(&self, path: &str) -> Reply {
        self.raw(self.head("GET", path, "", 0).as_bytes()).unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> Reply {
        let body = body.to_string();
        self.raw(format!("{}{body}", self.head("POST", path, "", body.len())).as_bytes()).unwrap()
    }

    fn chat(&self, more: Value) -> Reply {
        let mut body =
            json!({ "messages": [{ "role": "user", "content": "My card was declined" }], "temperature": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/v1/chat/completions", &body)
    }

    fn error(reply: &Reply) -> (u16, String, String) {
        let error = reply.json()["error"].clone();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (reply.status, text("code"), text("param"))
    }
}

/// A folder served by a process of its own.
struct Served {
    child: Child,
    http: Http,
    up: Value,
    _temp: tempfile::TempDir,
}

impl Served {
    fn start(args: &[&str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tunebench"))
            .arg("serve")
            .args(args)
            .args(["--port", "0", "--show-token", "--json"])
            .env("TMPDIR", temp.path())
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let up: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        Self { child, http: http(&up), up, _temp: temp }
    }

    /// SIGTERM, and its exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server printed when it came up.
fn http(up: &Value) -> Http {
    let url = up["url"].as_str().unwrap_or_else(|| panic!("no url: {up}"));
    let port = url.strip_prefix("http://127.0.0.1:").unwrap().strip_suffix("/v1").unwrap().parse().unwrap();
    Http { port, token: up["token"].as_str().unwrap().to_owned() }
}

#[test]
fn answers_are_those_of_transformers_whole_and_in_a_stream() {
    for name in ["llama", "qwen2"] {
        let dir = fixture(name);
        let served = Served::start(&[dir.to_str().unwrap()]);
        let models = served.http.get("/v1/models").json();
        assert_eq!(models["data"][0]["id"], name, "{models}");
        assert_eq!(served.http.get(&format!("/v1/models/{name}")).json()["object"], "model");
        let reference: Value =
            serde_json::from_str(&std::fs::read_to_string(dir.join("reference.json")).unwrap()).unwrap();
        for wanted in reference["answers"].as_array().unwrap() {
            let ask = json!({
                "model": name, "max_tokens": 24,
                "messages": [{ "role": "user", "content": wanted["text"] }],
            });
            let whole = served.http.chat(ask.clone()).json();
            let choice = &whole["choices"][0];
            assert_eq!(choice["message"]["content"], wanted["decoded"], "{whole}");
            assert_eq!(whole["usage"]["prompt_tokens"], wanted["tokens"].as_array().unwrap().len());
            assert_eq!(whole["usage"]["completion_tokens"], wanted["greedy"].as_array().unwrap().len());
            assert_eq!(
                (&whole["object"], &choice["message"]["role"]),
                (&json!("chat.completion"), &json!("assistant"))
            );

            let mut ask = ask;
            ask["stream"] = json!(true);
            ask["stream_options"] = json!({ "include_usage": true });
            let parts = served.http.chat(ask).parts();
            assert_eq!(parts[0]["choices"][0]["delta"]["role"], "assistant");
            let text: String =
                parts.iter().filter_map(|part| part["choices"][0]["delta"]["content"].as_str()).collect();
            assert_eq!(text, wanted["decoded"].as_str().unwrap());
            let [.., closing, usage] = &parts[..] else { panic!("{parts:?}") };
            assert_eq!(closing["choices"][0]["finish_reason"], choice["finish_reason"]);
            assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
            assert!(
                parts
                    .iter()
                    .all(|part| part["id"] == parts[0]["id"] && part["object"] == "chat.completion.chunk")
            );
        }
        let token_file = PathBuf::from(served.up["token_file"].as_str().unwrap());
        assert!(token_file.is_file());
        assert_eq!(served.stop(), Some(0));
        assert!(!token_file.exists(), "the token ends with the server");
    }
}

#[test]
fn completions_take_several_prompts_and_samples() {
    let served = Served::start(&[fixture("qwen2").to_str().unwrap()]);
    let ask = json!({ "model": "qwen2", "prompt": ["one", "two"], "n": 3, "max_tokens": 4, "temperature": 1, "seed": 5 });
    let first = served.http.post("/v1/completions", &ask).json();
    let texts = |reply: &Value| -> Vec<String> {
        reply["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((texts(&first).len(), &first["object"]), (6, &json!("text_completion")));
    assert_eq!(
        texts(&served.http.post("/v1/completions", &ask).json()),
        texts(&first),
        "a seed draws the same"
    );
    let mut streamed = ask.clone();
    streamed["stream"] = json!(true);
    let mut by_index = vec![String::new(); 6];
    for part in served.http.post("/v1/completions", &streamed).parts() {
        let choice = &part["choices"][0];
        by_index[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    assert_eq!(by_index, texts(&first));
    // The first sample is what the seed draws alone.
    let alone = json!({ "model": "qwen2", "prompt": "two", "max_tokens": 4, "temperature": 1, "seed": 5 });
    assert_eq!(texts(&served.http.post("/v1/completions", &alone).json())[0], texts(&first)[3]);
}

#[test]
fn an_adapter_is_offered_beside_its_base() {
    let base = tunebench::model::Decoder::load(&fixture("qwen2")).unwrap();
    let targets = tunebench::domain::settings::Targets::default();
    let mut lora = tunebench::model::Lora::init(&base, 4, 64.0, &targets, 5).unwrap();
    lora.values_mut().iter_mut().enumerate().for_each(|(i, v)| *v = (i % 13) as f32 / 13.0 - 0.5);
    let temp = tempfile::tempdir().unwrap();
    lora.save_peft(temp.path(), None).unwrap();
    let adapter = format!("tuned={}", temp.path().display());
    let served = Served::start(&[fixture("qwen2").to_str().unwrap(), "--adapter", &adapter]);
    assert_eq!(served.up["models"], json!(["qwen2", "tuned"]));
    let text = |model: &str| {
        served.http.chat(json!({ "model": model, "max_tokens": 16 })).json()["choices"][0]["message"]["content"].clone()
    };
    let (base, tuned) = (text("qwen2"), text("tuned"));
    assert!(base.is_string() && tuned.is_string() && base != tuned, "{base} {tuned}");
    assert_eq!((text("qwen2"), text("tuned")), (base, tuned));
}

#[test]
fn what_cannot_be_answered_is_an_error_that_clients_understand() {
    let served = Served::start(&[fixture("qwen2").to_str().unwrap(), "--at-once", "1", "--waiting", "0"]);
    let http = &served.http;
    let chat = |more: Value| Http::error(&http.chat(more));
    assert_eq!(chat(json!({ "model": "gpt" })), (404, "model_not_found".into(), "model".into()));
    let long = "word ".repeat(300);
    let long = json!({ "model": "qwen2", "messages": [{ "role": "user", "content": long }] });
    assert_eq!(chat(long), (400, "context_length_exceeded".into(), "messages".into()));
    let tool = json!({ "type": "function", "function": { "name": "look" } });
    assert_eq!(chat(json!({ "model": "qwen2", "tools": [tool] })).0, 400);
    assert_eq!(
        chat(json!({ "model": "qwen2", "temperature": "hot" })),
        (400, String::new(), "temperature".into())
    );
    // More answers than the line has room for.
    let full = http.chat(json!({ "model": "qwen2", "n": 8 }));
    assert!(full.status == 429 && full.head.to_lowercase().contains("retry-after: "), "{}", full.head);
    assert_eq!(full.json()["error"]["type"], "rate_limit_error");
    for (body, status) in [("{", 400), ("", 400), ("[]", 400), ("{\"model\": 1}", 400)] {
        let request = format!("{}{body}", http.head("POST", "/v1/chat/completions", "", body.len()));
        assert_eq!(http.raw(request.as_bytes()).unwrap().status, status, "{body}");
    }
    assert_eq!(http.get("/v1/nothing").json()["error"]["type"], "invalid_request_error");
    assert_eq!(http.get("/v1/nothing").status, 404);
    assert_eq!(http.get("/v1/chat/completions").status, 405);
    assert_eq!(http.get("/v1/models/none").status, 404);
    // And it answers still.
    assert_eq!(http.chat(json!({ "model": "qwen2", "max_tokens": 2 })).status, 200);
}

#[test]
fn only_who_has_the_token_and_means_this_host_comes_in() {
    let served = Served::start(&[fixture("qwen2").to_str().unwrap()]);
    let http = &served.http;
    let (port, token) = (http.port, &http.token);
    let status = |host: &str, more: &str| {
        http.raw(format!("GET /v1/models HTTP/1.1\r\n{host}{more}\r\n").as_bytes()).unwrap().status
    };
    let (here, bearer) =
        (format!("Host: localhost:{port}\r\n"), format!("Authorization: Bearer {token}\r\n"));
    assert_eq!(status(&here, &bearer), 200);
    assert_eq!(status(&here, ""), 401);
    assert_eq!(status(&here, "Authorization: Bearer sk-wrong\r\n"), 401);
    assert_eq!(status(&here, &format!("Authorization: Bearer {}\r\n", &token[1..])), 401);
    assert_eq!(status(&format!("Host: evil.example:{port}\r\n"), &bearer), 403);
    assert_eq!(status("Host: 127.0.0.1:1\r\n", &bearer), 403);
    assert_eq!(status("", &bearer), 400);
    assert_eq!(status(&format!("{here}{here}"), &bearer), 400);
    let absolute = format!("GET http://evil.example/v1/models HTTP/1.1\r\n{here}{bearer}\r\n");
    assert_eq!(http.raw(absolute.as_bytes()).unwrap().status, 403);
    let health = format!("GET /health HTTP/1.1\r\n{here}\r\n");
    assert_eq!(http.raw(health.as_bytes()).unwrap().status, 200);
    // Nothing is told of models, and no token, without one.
    let refused = http.raw(format!("GET /v1/models HTTP/1.1\r\n{here}\r\n").as_bytes()).unwrap();
    assert!(!refused.body.contains("qwen2") && !refused.body.contains(token.as_str()));
    // Other interfaces of this machine are not listened at.
    assert!(TcpStream::connect(("127.0.0.2", port)).is_err());
}

#[test]
fn clients_that_mean_harm_do_not_keep_others_from_being_answered() {
    let served = Served::start(&[fixture("qwen2").to_str().unwrap()]);
    let http = &served.http;
    let fine = || assert_eq!(http.chat(json!({ "model": "qwen2", "max_tokens": 2 })).status, 200);
    // A hundred that say nothing, and one that never ends its head.
    let silent: Vec<TcpStream> = (0..100).map(|_| http.connect()).collect();
    let mut slow = http.connect();
    slow.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ").unwrap();
    fine();
    // A huge body, said and sent.
    let mut big = http.connect();
    big.write_all(http.head("POST", "/v1/chat/completions", "", 5 << 20).as_bytes()).unwrap();
    assert_eq!(read_reply(&mut big).unwrap().status, 413);
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        http.port, http.token
    );
    let mut big = http.connect();
    big.write_all(chunked.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    // It stops listening in the middle.
    for _ in 0..80 {
        if big.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    if let Some(reply) = read_reply(&mut big) {
        assert_eq!(reply.status, 413, "{}", reply.body);
    }
    // Heads that are no HTTP, or too many.
    for bytes in [
        &b"\0\xff\x16\x03\x01"[..],
        b"GET\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = http.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&all));
    }
    let many = format!("GET /health HTTP/1.1\r\n{}\r\n", "X-A: b\r\n".repeat(5000));
    assert!(http.raw(many.as_bytes()).is_none_or(|reply| (400..500).contains(&reply.status)));
    // One that goes in the middle of its stream, and one that never reads.
    let body = json!({ "model": "qwen2", "stream": true, "n": 8, "messages": [{ "role": "user", "content": "go on" }] }).to_string();
    let request = format!("{}{body}", http.head("POST", "/v1/chat/completions", "", body.len()));
    let mut gone = http.connect();
    gone.write_all(request.as_bytes()).unwrap();
    gone.read_exact(&mut [0; 20]).unwrap();
    drop(gone);
    let mut deaf = http.connect();
    deaf.write_all(request.as_bytes()).unwrap();
    fine();
    // Requests that follow on one another's heels are answered in their order.
    let mut stream = http.connect();
    let one = http.head("GET", "/v1/models", "", 0);
    let other = http.head("GET", "/v1/nothing", "", 0);
    stream.write_all(format!("{one}{other}{one}").as_bytes()).unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while text.matches("HTTP/1.1").count() < 3 {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "{text}");
        text += &String::from_utf8_lossy(&buffer[..n]);
    }
    let states: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
    assert_eq!(states, ["200", "404", "200"]);
    fine();
    // Whoever dawdles is closed in the end.
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"));
    drop((silent, deaf));
    fine();
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn wrong_usage_is_refused_before_anything_is_loaded() {
    let temp = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tunebench"))
            .arg("serve")
            .args(args)
            .current_dir(temp.path())
            .env("TMPDIR", temp.path())
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let dir = fixture("qwen2");
    let dir = dir.to_str().unwrap();
    for (args, says) in [
        (vec!["nothing"], "no model's folder"),
        (vec![dir, "--adapter", "/absent"], "/absent"),
        (vec![dir, "--adapter", dir, "--port", "0"], "qwen2"),
        (vec![dir, "--detach"], "--detach"),
        (vec![dir, "--at-once", "0"], "at-once"),
        (vec![], "RUN_OR_MODEL"),
    ] {
        let (code, said) = run(&args);
        assert!(code == Some(2) && said.contains(says), "{args:?}: {said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, said) = run(&[dir, "--port", &port]);
    assert!(code == Some(2) && said.contains("--port names another port"), "{said}");
}

/// A run of a workspace that serves, left to itself.
fn detached(bench: &Bench, models: &[&str], more: &[&str]) -> (String, Http) {
    let mut args = vec!["serve", "--port", "0", "--show-token", "--detach"];
    args.extend(more);
    args.extend(models);
    let up = bench.json(&args);
    (up["run"].as_str().unwrap_or_else(|| panic!("{up}")).to_owned(), http(&up))
}

#[test]
fn a_trained_run_is_served_beside_its_base_while_another_one_trains() {
    let bench = Bench::new();
    let trained = bench.json(&["run", "train", "--set", "max_steps=20", "--set", "learning_rate=1e-2"]);
    assert_eq!(trained["state"], "done", "{trained}");
    let (run, http) = detached(&bench, &["train-1"], &[]);
    let offered: Vec<Value> =
        http.get("/v1/models").json()["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(offered, ["base", "train-1"]);
    let record = bench.record(&run);
    assert_eq!((&record["kind"], &record["state"]), (&json!("serve"), &json!("running")));
    assert!(record["message"].as_str().unwrap().contains(&http.port.to_string()), "{record}");
    // A batch run goes on beside it, and both come forward.
    let busy = bench.train(1_000_000);
    bench.wait_steps(&busy, 2);
    let before = bench.steps(&busy);
    std::thread::scope(|scope| {
        for client in 0..6 {
            let http = &http;
            scope.spawn(move || {
                for i in 0..5 {
                    let model = ["base", "train-1"][(client + i) % 2];
                    let reply = http.chat(json!({ "model": model, "max_tokens": 8, "stream": i % 2 == 0 }));
                    assert_eq!(reply.status, 200, "{}", reply.body);
                }
            });
        }
    });
    bench.wait_steps(&busy, before + 1);
    // The engine reads what workers write a moment later.
    bench.wait_state(&busy, "running");
    until("the figures to be told", || (bench.record(&run)["metrics"]["answered"] == 30.0).then_some(()));
    let metrics = bench.record(&run)["metrics"].clone();
    assert!(
        metrics["ttft_p95_ms"].as_f64().unwrap() > 0.0 && metrics["tokens_out"].as_f64().unwrap() >= 30.0,
        "{metrics}"
    );
    assert!(bench.run(&["runs", "stop", &run]).status.success());
    bench.wait_state(&run, "stopped");
    assert!(TcpStream::connect(("127.0.0.1", http.port)).is_err());
    assert!(!bench.state().join("runs").join(&run).join("token").exists());
    assert!(bench.run(&["runs", "cancel", &busy]).status.success());
    bench.wait_state(&busy, "cancelled");
}

#[test]
fn a_killed_worker_leaves_an_interrupted_run_and_a_killed_engine_leaves_the_server() {
    let bench = Bench::new();
    let (run, http) = detached(&bench, &["base"], &[]);
    let ask = || http.chat(json!({ "model": "base", "max_tokens": 2 })).status;
    assert_eq!(ask(), 200);
    bench.kill_engine();
    assert_eq!(ask(), 200, "the server does not need the engine");
    assert_eq!(bench.run_state(&run), "running", "the next engine adopts it");
    bench.kill_worker(&run);
    let record = bench.wait_state(&run, "interrupted");
    assert_eq!(record["resumable"], true, "{record}");
    assert!(bench.run(&["runs", "resume", &run]).status.success());
    let record = until("the server to be back", || {
        let record = bench.record(&run);
        (record["state"] == "running" && record["message"].as_str()?.contains("http://")).then_some(record)
    });
    let port = record["message"]
        .as_str()
        .unwrap()
        .split(['/', ':'])
        .find_map(|part| part.parse::<u16>().ok())
        .unwrap();
    let token = std::fs::read_to_string(bench.state().join("runs").join(&run).join("token")).unwrap();
    assert_ne!(token, http.token, "a new life, a new token");
    assert_eq!(Http { port, token }.chat(json!({ "model": "base", "max_tokens": 2 })).status, 200);
    assert!(bench.run(&["runs", "cancel", &run]).status.success());
    bench.wait_state(&run, "cancelled");
}

#[test]
fn a_client_that_goes_is_not_answered_any_more_and_a_stop_lets_answers_end() {
    let bench = Bench::new();
    let toml = std::fs::read_to_string(bench.root.join("workspace.toml")).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("workspaces/demo/model");
    let toml = toml.replace(&fixture("llama").display().to_string(), &demo.display().to_string());
    std::fs::write(bench.root.join("workspace.toml"), toml).unwrap();
    let (run, http) = detached(&bench, &["base"], &["--at-once", "1"]);
    let ask = json!({ "model": "base", "prompt": "the card", "max_tokens": 800, "n": 8, "stream": true, "temperature": 2 });
    let body = ask.to_string();
    let request = format!("{}{body}", http.head("POST", "/v1/completions", "", body.len()));
    // One answer at a time: when the first piece is there, seven wait.
    let mut gone = http.connect();
    gone.write_all(request.as_bytes()).unwrap();
    gone.read_exact(&mut [0; 400]).unwrap();
    drop(gone);
    until("the rest to be taken back", || {
        let metrics = bench.record(&run)["metrics"].clone();
        (metrics["cancelled"].as_f64()? >= 1.0 && metrics["waiting"] == 0.0 && metrics["under_way"] == 0.0)
            .then_some(())
    });
    let mut last = http.connect();
    last.write_all(request.as_bytes()).unwrap();
    let mut begun = [0; 400];
    last.read_exact(&mut begun).unwrap();
    assert!(bench.run(&["runs", "stop", &run]).status.success());
    let late = until("new requests to be refused", || {
        let stream = TcpStream::connect(("127.0.0.1", http.port));
        if stream.is_err() {
            return Some(None);
        }
        let reply = http.raw(http.head("POST", "/v1/completions", "", 0).as_bytes())?;
        (reply.status == 503).then_some(Some(reply))
    });
    if let Some(reply) = late {
        assert!(reply.head.to_lowercase().contains("retry-after"), "{}", reply.head);
    }
    let mut rest = String::new();
    last.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "the answer that was under way came to its end");
    bench.wait_state(&run, "stopped");
}

#[test]
fn what_cannot_be_served_is_refused_with_code_2_and_leaves_no_run() {
    let bench = Bench::new();
    for (args, says) in [
        (vec!["serve", "nobody"], "no candidate `nobody`"),
        (vec!["serve", "train-1@5"], "no run `train-1`"),
        (vec!["run", "serve"], "tunebench serve"),
        (vec!["run", "playground"], "screen"),
    ] {
        let output = bench.run(&args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(says), "{args:?}: {said}");
    }
    assert_eq!(bench.json(&["runs"])["runs"], json!([]));
    // A port that is taken is found out by the worker: the run fails and says why.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = bench.run(&["serve", "base", "--port", &port]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("cannot listen"), "{output:?}");
}

#[test]
fn a_playground_is_launched_answers_beside_a_run_and_leaves_when_nobody_asks() {
    use tunebench::domain::api::{Request, Response};
    use tunebench::domain::run::RunKind;
    use tunebench::engine::client::Client;
    let bench = Bench::new();
    let busy = bench.train(1_000_000);
    bench.wait_steps(&busy, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = runtime.block_on(async {
        let client = Client::connect(&bench.root).await.unwrap().unwrap();
        let set =
            vec![("idle_s".to_owned(), "3".to_owned()), ("candidate".to_owned(), "baseline".to_owned())];
        let launch = Request::Launch { kind: RunKind::Playground, set, keys: Default::default(), from: None };
        match client.ask(launch).await.unwrap() {
            Response::Launched { run } => run,
            other => panic!("{other:?}"),
        }
    });
    bench.wait_state(&run, "running");
    assert_eq!(bench.run_state(&busy), "running");
    let events = bench.events(&run);
    assert!(events.iter().any(|e| matches!(e.body, EventBody::State { .. })));
    let record = bench.wait_state(&run, "done");
    assert!(record["ended_ms"].is_number(), "{record}");
    assert!(bench.run(&["runs", "cancel", &busy]).status.success());
    bench.wait_state(&busy, "cancelled");
}

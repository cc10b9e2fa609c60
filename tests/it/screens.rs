//! The screens in a real terminal: a pty with an emulator behind it.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::engine::bench::{Bench, until};

/// A terminal with tunebench in it.
struct Tty {
    child: Box<dyn Child + Send + Sync>,
    /// None once the terminal was closed.
    master: Option<Box<dyn MasterPty + Send>>,
    keyboard: Option<Box<dyn std::io::Write + Send>>,
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    screen: vt100::Parser,
    bytes: Vec<u8>,
}

impl Tty {
    fn open(bench: &Bench, (width, height): (u16, u16), env: &[(&str, &str)]) -> Self {
        let size = PtySize { rows: height, cols: width, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let like = bench.command(&[]);
        let mut command = CommandBuilder::new(like.get_program());
        command.args(like.get_args());
        for (name, value) in like.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.env("TERM", "xterm-256color");
        command.env("LC_ALL", "C.UTF-8");
        command.env("XDG_CONFIG_HOME", bench.root.join("no-configuration"));
        command.env_remove("NO_COLOR");
        for (name, value) in env {
            command.env(name, value);
        }
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let seen =
            Arc::new(Mutex::new(Seen { screen: vt100::Parser::new(height, width, 0), bytes: Vec::new() }));
        let mut reader = pair.master.try_clone_reader().unwrap();
        let sink = seen.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                let mut seen = sink.lock().unwrap();
                seen.screen.process(&buffer[..n]);
                seen.bytes.extend_from_slice(&buffer[..n]);
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        Self { child, master: Some(pair.master), keyboard: Some(keyboard), seen }
    }

    fn text(&self) -> String {
        self.seen.lock().unwrap().screen.screen().contents()
    }

    fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().bytes.clone()
    }

    /// Waits until the screen shows all of these.
    fn wait(&mut self, wanted: &[&str]) {
        until(&format!("{wanted:?} on the screen"), || {
            let text = self.text();
            let there = wanted.iter().all(|w| text.contains(w));
            assert!(there || self.child.try_wait().unwrap().is_none(), "ended without {wanted:?}: {text}");
            there.then_some(())
        });
    }

    fn wait_without(&mut self, unwanted: &str) {
        until(&format!("no {unwanted:?} on the screen"), || (!self.text().contains(unwanted)).then_some(()));
    }

    fn resize(&self, width: u16, height: u16) {
        self.seen.lock().unwrap().screen.screen_mut().set_size(height, width);
        let size = PtySize { rows: height, cols: width, pixel_width: 0, pixel_height: 0 };
        self.master.as_ref().unwrap().resize(size).unwrap();
    }

    fn press(&mut self, keys: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.process_id().unwrap()).unwrap()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Waits for the end; the exit code.
    fn end(&mut self) -> u32 {
        until("the screens to end", || self.child.try_wait().unwrap()).exit_code()
    }

    /// The terminal is as it was found.
    fn assert_given_back(&self) {
        until("the terminal to be given back", || {
            let seen = self.seen.lock().unwrap();
            let screen = seen.screen.screen();
            (!screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste()).then_some(())
        });
        let bytes = String::from_utf8_lossy(&self.bytes()).into_owned();
        assert!(bytes.matches("\u{1b}[?2026l").count() >= bytes.matches("\u{1b}[?2026h").count());
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ENTER: &str = "\r";

#[test]
fn a_run_launched_from_the_screen_grows_its_curve_and_goes_on_after_leaving() {
    let bench = Bench::new();
    let mut tty = Tty::open(&bench, (80, 24), &[]);
    tty.wait(&["tickets", "all rows", "60"]);
    tty.press("t");
    tty.wait(&["train a LoRA adapter", "learning rate"]);
    // To the epochs, so many that the run is still under way in a while.
    tty.press("\t\t\t");
    tty.press("100000");
    tty.press(ENTER);
    tty.wait(&["train-1", "running", "loss"]);
    bench.wait_steps("train-1", 20);
    tty.press("w");
    tty.wait(&["[figures]", "tok/s"]);
    tty.press("q");
    assert_eq!(tty.end(), 0);
    tty.assert_given_back();
    let steps = bench.steps("train-1");
    bench.wait_steps("train-1", steps + 3);
    assert_eq!(bench.run_state("train-1"), "running");
    // Whoever comes back sees it, and can end it.
    let mut again = Tty::open(&bench, (120, 40), &[]);
    again.wait(&["train-1"]);
    again.press("4");
    again.wait(&["train-1", "running", "figures"]);
    again.press("k");
    again.wait(&["Cancel train-1?"]);
    again.press("y");
    bench.wait_state("train-1", "cancelled");
    again.wait(&["cancelled"]);
    again.press("\u{3}");
    assert_eq!(again.end(), 0);
}

#[test]
fn a_closed_terminal_leaves_the_run_running() {
    let bench = Bench::new();
    let mut tty = Tty::open(&bench, (80, 24), &[]);
    tty.wait(&["all rows"]);
    let run = bench.train(1_000_000);
    tty.press("4");
    tty.wait(&[&run, "running"]);
    tty.keyboard = None;
    tty.master = None;
    tty.signal(rustix::process::Signal::HUP);
    tty.end();
    let steps = bench.steps(&run);
    bench.wait_steps(&run, steps + 3);
    assert_eq!(bench.run_state(&run), "running");
    assert!(bench.run(&["runs", "cancel", &run]).status.success());
    bench.wait_state(&run, "cancelled");
}

#[test]
fn signals_and_ctrl_c_give_the_terminal_back_from_everywhere() {
    let bench = Bench::new();
    for (keys, shown, signal) in [
        ("", "all rows", Some(rustix::process::Signal::TERM)),
        ("?", "help: the keys here", Some(rustix::process::Signal::TERM)),
        (":", "palette: any action", None),
        ("t", "train a LoRA adapter", None),
    ] {
        let mut tty = Tty::open(&bench, (80, 24), &[]);
        tty.wait(&["all rows"]);
        tty.press(keys);
        tty.wait(&[shown]);
        match signal {
            Some(signal) => tty.signal(signal),
            None => tty.press("\u{3}"),
        }
        assert_eq!(tty.end(), 0, "{keys}");
        tty.assert_given_back();
    }
}

#[test]
fn no_color_and_a_plain_locale_are_honoured_and_the_selection_still_shows() {
    let bench = Bench::new();
    let mut tty = Tty::open(&bench, (80, 24), &[("NO_COLOR", "1"), ("LC_ALL", "C")]);
    tty.wait(&["all rows"]);
    tty.press("7");
    tty.wait(&["no run yet"]);
    tty.press("1");
    tty.wait(&["> all rows"]);
    let seen = tty.seen.lock().unwrap();
    assert!(seen.bytes.is_ascii(), "{}", String::from_utf8_lossy(&seen.bytes));
    let screen = seen.screen.screen();
    let mut reversed = String::new();
    for row in 2..23 {
        for column in 0..80 {
            let cell = screen.cell(row, column).unwrap();
            assert_eq!(
                (cell.fgcolor(), cell.bgcolor()),
                (vt100::Color::Default, vt100::Color::Default),
                "{row} {column}"
            );
            if cell.inverse() {
                reversed.push_str(cell.contents());
            }
        }
    }
    assert!(reversed.contains("allrows") || reversed.contains("all rows"), "{reversed:?}");
}

#[test]
fn a_resized_terminal_is_drawn_anew_and_one_too_small_says_so() {
    let bench = Bench::new();
    let mut tty = Tty::open(&bench, (80, 24), &[]);
    tty.wait(&["all rows"]);
    for (width, height, shown) in [(50, 12, "needs 60x15"), (120, 40, "all rows"), (60, 15, "all rows")] {
        tty.resize(width, height);
        tty.wait(&[shown]);
    }
    // A key that comes together with a resize is a key, not one that waits for the next.
    for (width, height) in [(90, 30), (100, 24)].into_iter().cycle().take(20) {
        tty.resize(width, height);
        tty.press("?");
        tty.wait(&["help: the keys"]);
        tty.resize(width - 10, height - 4);
        tty.press("\u{1b}");
        tty.wait_without("help: the keys");
    }
    tty.press("q");
    assert_eq!(tty.end(), 0);
}

#[test]
fn nothing_is_drawn_while_nothing_happens() {
    let bench = Bench::new();
    let mut tty = Tty::open(&bench, (80, 24), &[]);
    tty.wait(&["all rows", "the"]);
    // Until the screen has come to rest; then a while in which a ticking screen would write.
    let mut before = tty.bytes().len();
    until("the screen to rest", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = tty.bytes().len();
        let rest = now == before;
        before = now;
        rest.then_some(())
    });
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(tty.bytes().len(), before);
}

#[test]
fn what_is_no_workspace_is_told_before_the_terminal_is_taken() {
    let bench = Bench::new();
    std::fs::remove_file(bench.root.join("workspace.toml")).unwrap();
    let mut tty = Tty::open(&bench, (80, 24), &[]);
    assert_eq!(tty.end(), 2);
    until("the error", || tty.text().contains("workspace.toml").then_some(()));
    assert!(!String::from_utf8_lossy(&tty.bytes()).contains("\u{1b}[?1049h"));
    // And without a terminal: the way out is named.
    let bench = Bench::new();
    let output = bench.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--plain"));
}

#[test]
fn plain_prints_lines_and_ends_when_nothing_is_under_way() {
    let bench = Bench::new();
    assert_eq!(bench.json(&["run", "eval"])["state"], "done");
    let output = bench.run(&["--plain"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["workspace tickets", "60 rows", "board: 1 candidate on", "run eval-1 (eval): done"] {
        assert!(text.lines().any(|l| l.contains(line)), "{line}: {text}");
    }
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn an_input_typed_on_the_screen_is_answered_corrected_and_becomes_a_row() {
    let bench = Bench::new();
    let mut tty = Tty::open(&bench, (120, 40), &[]);
    tty.wait(&["tickets", "all rows", "60"]);
    tty.press("6");
    tty.wait(&["i writes an input"]);
    tty.press("i");
    tty.wait(&["alt-enter or ctrl-j"]);
    tty.press("\u{1b}[200~my card is\nlost, help\u{1b}[201~");
    tty.wait(&["my card is", "lost, help"]);
    tty.press(ENTER);
    tty.wait(&["first ", "tokens "]);
    tty.press("g");
    tty.wait(&["the golden answer", "loans"]);
    tty.press("cards");
    tty.press(ENTER);
    tty.wait(&["is a row to train on"]);
    let text = std::fs::read_to_string(bench.state().join("feedback/rows.jsonl")).unwrap();
    assert!(text.contains("\"team\":\"cards\""), "{text}");
    assert_eq!(bench.json(&["data", "import"])["rows"], 61);
    tty.press("u");
    tty.wait(&["took back: what was said of an answer"]);
    assert_eq!(bench.json(&["data", "import"])["rows"], 60);
    // The resident worker holds nobody up.
    tty.press("q");
    assert_eq!(tty.end(), 0);
    tty.assert_given_back();
}

#[test]
fn a_prompt_is_edited_in_the_users_editor_and_what_is_saved_is_tried_at_once() {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::engine::prompts::{knows_no_teams, with_prompt};

    let bench = Bench::new();
    let _server = with_prompt(&bench, knows_no_teams);
    assert!(bench.run(&["strata", "build"]).status.success());
    // An editor that says that it has the terminal, reads a key, and saves.
    let editor = bench.root.join("editor.sh");
    let script = "#!/bin/sh\nprintf 'editing %s' \"$1\"\nread line\nprintf 'What is the %s of this message?\\n\\n{{ input }}\\n' \"$line\" > \"$1\"\n";
    std::fs::write(&editor, script).unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let visual = editor.display().to_string();
    let mut tty = Tty::open(&bench, (120, 40), &[("VISUAL", &visual)]);
    tty.wait(&["tickets", "Prompts"]);
    tty.press("2");
    tty.wait(&["by hand", "Which team should get"]);
    tty.press("e");
    tty.wait(&["editing", "prompts/route.md"]);
    // Its keys are its own: `topic` would be five of ours.
    tty.press("topic\n");
    tty.wait(&["hand:v1", "topic", "cards → loans"]);
    tty.press("q");
    assert_eq!(tty.end(), 0);
    tty.assert_given_back();
}

use super::*;
use crate::domain::candidate::Candidate;
use crate::engine::protocol::encode;

const NUMBER: u64 = 77;

fn question() -> PlayRequest {
    let candidate = Candidate { name: "base".into(), rung: "baseline".into(), stages: Vec::new() };
    let row = RunRow {
        id: "r".into(),
        hash: String::new(),
        part: None,
        stratum: None,
        fields: serde_json::Map::new(),
        input: "hello".into(),
        turns: Vec::new(),
        gold: None,
    };
    let (candidate, row) = (Box::new(candidate), Box::new(row));
    PlayRequest::Ask { id: NUMBER, candidate, row, logprobs: None, keys: Keys::default() }
}

fn piece(text: &str) -> PlayBody {
    PlayBody::Piece { stage: "route".into(), text: text.into() }
}

fn news(body: PlayBody) -> PlayEvent {
    PlayEvent { id: NUMBER, body }
}

/// A question with client's number 3, and a worker that does as told.
fn with_worker<F: Future<Output = ()> + Send + 'static>(
    worker: impl FnOnce(UnixStream) -> F,
    client: impl AsyncFnOnce(Arc<Desk>),
) -> Result<PlayBody, Broken> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (here, there) = UnixStream::pair().unwrap();
        let desk = Arc::new(Desk::default());
        let mut ended = desk.open(3).unwrap();
        let worker = tokio::spawn(worker(there));
        let asking = {
            let desk = desk.clone();
            tokio::spawn(async move { converse(&desk, 3, &question(), here, &mut ended).await })
        };
        client(desk).await;
        let outcome = asking.await.unwrap();
        worker.await.unwrap();
        outcome
    })
}

#[test]
fn an_answer_is_relayed_under_the_clients_number_with_its_pieces_put_together() {
    let worker = |mut stream: UnixStream| async move {
        assert_eq!(read_frame::<PlayRequest>(&mut stream).await.unwrap(), Some(question()));
        let prompt = PlayBody::Prompt { stage: "route".into(), prompt: "Sort: hello".into() };
        for body in [prompt, piece("ca"), piece("rd"), piece("s")] {
            write_frame(&mut stream, &news(body)).await.unwrap();
        }
        // Of somebody else's question.
        let other = PlayEvent { id: 5, body: piece("no") };
        write_frame(&mut stream, &other).await.unwrap();
        write_frame(&mut stream, &news(PlayBody::Done { output: "cards".into() })).await.unwrap();
    };
    let desk = Arc::new(std::sync::Mutex::new(None));
    let kept = desk.clone();
    let outcome = with_worker(worker, async move |desk| *kept.lock().unwrap() = Some(desk));
    assert_eq!(outcome, Ok(PlayBody::Done { output: "cards".into() }));
    let events = desk.lock().unwrap().take().unwrap().take();
    assert!(events.iter().all(|event| event.id == 3));
    let bodies: Vec<PlayBody> = events.into_iter().map(|event| event.body).collect();
    let prompt = PlayBody::Prompt { stage: "route".into(), prompt: "Sort: hello".into() };
    assert_eq!(bodies, [prompt, piece("cards")]);
}

#[test]
fn a_client_that_does_not_read_holds_its_answer_up_and_loses_nothing() {
    // Of all text this takes most bytes in JSON.
    let text = "\u{1}".repeat(10_000);
    let pieces = 500;
    let sent = text.clone();
    let worker = move |mut stream: UnixStream| async move {
        for _ in 0..pieces {
            write_frame(&mut stream, &news(piece(&sent))).await.unwrap();
        }
        write_frame(&mut stream, &news(PlayBody::Done { output: String::new() })).await.unwrap();
        // Read to the end, so that nothing is cut off.
        let _ = read_frame::<PlayRequest>(&mut stream).await;
    };
    let outcome = with_worker(worker, async move |desk| {
        while desk.state().bytes <= WAITING {
            tokio::task::yield_now().await;
        }
        let mut got = 0;
        while got < pieces * text.len() {
            let waiting = desk.state().bytes;
            assert!(waiting <= WAITING + text.len(), "{waiting} bytes wait for a client");
            let events = desk.take();
            assert!(encode(&events).is_ok(), "a push fits a frame");
            for event in events {
                let PlayBody::Piece { text, .. } = event.body else { panic!("{event:?}") };
                assert!(text.chars().all(|c| c == '\u{1}'));
                got += text.len();
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(got, pieces * text.len());
    });
    assert_eq!(outcome, Ok(PlayBody::Done { output: String::new() }));
}

#[test]
fn a_worker_that_dies_or_babbles_in_mid_answer_ends_that_answer() {
    let dies = |mut stream: UnixStream| async move {
        read_frame::<PlayRequest>(&mut stream).await.unwrap();
        write_frame(&mut stream, &news(piece("ca"))).await.unwrap();
    };
    assert_eq!(with_worker(dies, async |_| {}), Err(Broken::Gone));
    let babbles = |mut stream: UnixStream| async move {
        read_frame::<PlayRequest>(&mut stream).await.unwrap();
        write_frame(&mut stream, &"no event").await.unwrap();
    };
    let outcome = with_worker(babbles, async |_| {});
    assert!(matches!(&outcome, Err(Broken::Wrong(why)) if why.contains("cannot be read")), "{outcome:?}");
}

#[test]
fn a_question_that_is_broken_off_or_whose_client_goes_is_cancelled_at_the_worker() {
    for goes in [false, true] {
        let worker = |mut stream: UnixStream| async move {
            read_frame::<PlayRequest>(&mut stream).await.unwrap();
            write_frame(&mut stream, &news(piece("ca"))).await.unwrap();
            let asked = read_frame::<PlayRequest>(&mut stream).await.unwrap();
            assert_eq!(asked, Some(PlayRequest::Cancel { id: NUMBER }));
        };
        let outcome = with_worker(worker, async move |desk| {
            desk.news().await;
            if goes { desk.close() } else { assert!(cancel(&desk, 3).contains("broken off")) }
        });
        assert_eq!(outcome, Err(Broken::Off));
    }
}

#[test]
fn a_client_has_few_questions_at_once_each_with_a_number_of_its_own() {
    let desk = Desk::default();
    let open: Vec<_> = (0..AT_ONCE as u64).map(|id| desk.open(id).unwrap()).collect();
    assert!(desk.open(0).unwrap_err().message.contains("under way already"));
    assert!(desk.open(99).unwrap_err().message.contains("cancel one"));
    drop(open);
}

#[test]
fn what_does_not_fit_a_frame_is_shortened() {
    let desk = Desk::default();
    let prompt = "\u{1}".repeat(FRAME_MAX - 100);
    desk.put(1, PlayBody::Prompt { stage: "s".into(), prompt });
    desk.put(1, PlayBody::Done { output: "x".into() });
    let events = desk.take();
    assert!(encode(&events).is_ok());
    assert!(matches!(&events[0].body, PlayBody::Prompt { prompt, .. } if prompt.ends_with('…')));
    assert_eq!((desk.take().len(), desk.take().len(), desk.state().bytes), (1, 0, 0));
}

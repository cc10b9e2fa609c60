//! Loaded models behind an OpenAI-compatible endpoint, on loopback only, for those who have the token.
//!
//! ```text
//! listen    connections: how many, and how long they may take
//! gate      host and token
//! request   what is asked, read and judged
//! answer    asking the models, whole or in a stream
//! reply     answers in OpenAI's words
//! ```

mod answer;
mod error;
mod gate;
mod listen;
mod reply;
mod request;
mod tools;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use axum::extract::{Path as UrlPath, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::backend::models::{Answerer, Models};
use crate::domain::resident::Served;
use error::ApiError;
use gate::Gate;
use request::Api;

/// Largest body.
const BODY: usize = 4 << 20;
/// It must be there within this time.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// Answers that are going out when the server ends may take this long to be flushed.
const FLUSH: Duration = Duration::from_secs(1);

/// Whether requests are taken.
const OPEN: u8 = 0;
const PAUSED: u8 = 1;
const STOPPING: u8 = 2;

/// A model by the name that clients ask for.
#[derive(Clone)]
struct Offer {
    answerer: Answerer,
    fingerprint: String,
}

struct App {
    offers: BTreeMap<String, Offer>,
    created: u64,
    door: AtomicU8,
    /// Requests that are being answered.
    under_way: Arc<AtomicUsize>,
}

/// A server that answers until it is dropped.
pub struct Server {
    app: Arc<App>,
    port: u16,
    token: String,
    token_file: PathBuf,
    closed: watch::Sender<bool>,
    connections: Arc<AtomicUsize>,
    /// Taken when dropped.
    runtime: Option<Runtime>,
}

impl Server {
    /// Loads the models, makes a token, listens at the port (0: any that is free).
    ///
    /// # Errors
    /// A model or adapter that cannot be opened; a port that is in use; a token that cannot be written.
    pub fn start(
        served: &[Served],
        models: &Arc<Models>,
        port: u16,
        token_file: &Path,
    ) -> anyhow::Result<Self> {
        // The port first: what is in use should not be found out after minutes of loading.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .thread_name("serve")
            .enable_all()
            .build()?;
        let listener =
            runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port))).with_context(|| {
                format!("cannot listen at 127.0.0.1:{port}; --port names another port, 0 any that is free")
            })?;
        let port = listener.local_addr()?.port();
        let mut offers = BTreeMap::new();
        for Served { name, model, adapter } in served {
            let answerer = models.open(model, adapter.as_ref())?;
            let weights = format!("{} {}", model.hash, adapter.as_ref().map_or("", |a| &a.hash));
            let fingerprint = format!("fp_{}", &blake3::hash(weights.as_bytes()).to_hex()[..10]);
            offers.insert(name.clone(), Offer { answerer, fingerprint });
        }
        let token = gate::new_token(token_file)
            .with_context(|| format!("the token cannot be written to {}", token_file.display()))?;
        let app =
            Arc::new(App { offers, created: now(), door: AtomicU8::new(OPEN), under_way: Arc::default() });
        let router = router(app.clone(), Gate::new(&token, port));
        let (closed, closing) = watch::channel(false);
        let connections = Arc::<AtomicUsize>::default();
        runtime.spawn(listen::accept(listener, router, closing, connections.clone()));
        let token_file = token_file.to_owned();
        Ok(Self { app, port, token, token_file, closed, connections, runtime: Some(runtime) })
    }

    /// What clients call the base URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// Refuses requests for a while, or takes them again.
    pub fn pause(&self, pause: bool) {
        let (from, to) = if pause { (OPEN, PAUSED) } else { (PAUSED, OPEN) };
        let _ = self.app.door.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Refuses requests from now on; answers under way go on.
    pub fn stop(&self) {
        self.app.door.store(STOPPING, Ordering::SeqCst);
    }

    /// No request is being answered.
    pub fn is_quiet(&self) -> bool {
        self.app.under_way.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        self.closed.send_replace(true);
        let until = Instant::now() + FLUSH;
        while self.connections.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _ = std::fs::remove_file(&self.token_file);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn router(app: Arc<App>, gate: Gate) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(list))
        .route("/v1/models/{*name}", get(show))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .method_not_allowed_fallback(async |request: Request| ApiError::method(request.method().as_str()))
        .fallback(async |request: Request| ApiError::not_found(request.uri().path()))
        .layer(middleware::from_fn_with_state(gate, gate::pass))
        .with_state(app)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    match app.closed() {
        None => Json(json!({ "status": "ok" })).into_response(),
        Some(error) => error.into_response(),
    }
}

async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let models: Vec<Value> = app.offers.keys().map(|name| app.entry(name)).collect();
    Json(json!({ "object": "list", "data": models }))
}

async fn show(State(app): State<Arc<App>>, UrlPath(name): UrlPath<String>) -> Result<Json<Value>, ApiError> {
    app.offer(&name).map(|_| Json(app.entry(&name)))
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Response {
    answer::answer(app, Api::Chat, request).await.unwrap_or_else(ApiError::into_response)
}

async fn completion(State(app): State<Arc<App>>, request: Request) -> Response {
    answer::answer(app, Api::Completion, request).await.unwrap_or_else(ApiError::into_response)
}

impl App {
    fn entry(&self, name: &str) -> Value {
        json!({ "id": name, "object": "model", "created": self.created, "owned_by": "tunebench" })
    }

    fn offer(&self, name: &str) -> Result<&Offer, ApiError> {
        let names = || self.offers.keys().cloned().collect::<Vec<_>>();
        self.offers.get(name).ok_or_else(|| ApiError::no_model(name, &names()))
    }

    /// Why nothing is taken now.
    fn closed(&self) -> Option<ApiError> {
        match self.door.load(Ordering::SeqCst) {
            OPEN => None,
            PAUSED => Some(ApiError::unavailable("the server is paused")),
            _ => Some(ApiError::unavailable("the server is stopping")),
        }
    }
}

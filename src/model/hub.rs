//! Models from the Hugging Face hub: downloads that go on where they were cut off, checked by size and SHA-256.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Where models come from, unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// The server's list of a repository's files.
const MAX_LIST: usize = 32 << 20;
/// Failures in a row, without a byte gained between them, that end a download.
const TRIES: u32 = 6;
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Without a byte for so long the connection counts as dead.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// What was asked for cannot be had: no such model, no access, no safetensors.
    #[error("{0}")]
    Input(String),
    /// The download failed; what has arrived is kept, and the next one goes on from there.
    #[error("{0}")]
    Failed(String),
}

/// A download of one repository.
#[derive(Clone, Debug)]
pub struct Pull {
    endpoint: Url,
    token: Option<String>,
    repo: String,
    revision: String,
    to: PathBuf,
    /// Before the second try; doubles with each further one.
    first_wait: Duration,
}

/// How far a download is, in bytes over all files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    pub file: &'a str,
    pub done: u64,
    pub total: u64,
    /// Why it waits before it tries again.
    pub trouble: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
struct Listing {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

/// A file that is wanted, under a name that is safe.
#[derive(Clone, Debug)]
struct Wanted {
    name: String,
    size: Option<u64>,
    sha256: Option<String>,
    /// Tells contents apart: what is left of another one is not gone on with.
    content: String,
}

impl Pull {
    /// With `HF_ENDPOINT` and `HF_TOKEN` of the environment.
    pub fn from_env(repo: &str, revision: &str, to: PathBuf) -> Result<Self, HubError> {
        let var =
            |name: &str| std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let endpoint = var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Self::new(&endpoint, var("HF_TOKEN"), repo, revision, to)
    }

    /// `repo` is `ORGANIZATION/NAME` (or `NAME` for a few old ones), `revision` a branch, tag or commit.
    pub fn new(
        endpoint: &str,
        token: Option<String>,
        repo: &str,
        revision: &str,
        to: PathBuf,
    ) -> Result<Self, HubError> {
        let input = |message: String| Err(HubError::Input(message));
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        if repo.split('/').count() > 2 || !repo.split('/').all(plain) {
            return input(format!(
                "`{repo}` is no name of a model; expected ORGANIZATION/NAME, as in Qwen/Qwen3-0.6B"
            ));
        }
        if !revision.split('/').all(plain) {
            return input(format!("`{revision}` is no branch, tag or commit"));
        }
        let url = match Url::parse(endpoint.trim_end_matches('/')) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => url,
            _ => return input(format!("HF_ENDPOINT `{endpoint}` is no http or https address")),
        };
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if token.is_some() && url.scheme() == "http" && !local {
            return input(format!("HF_TOKEN would go to {url} unencrypted; use https, or unset HF_TOKEN"));
        }
        Ok(Self {
            endpoint: url,
            token,
            repo: repo.to_owned(),
            revision: revision.to_owned(),
            to,
            first_wait: Duration::from_millis(500),
        })
    }

    /// Downloads what a model needs into the folder; files that are there and whole are left alone.
    pub async fn run(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), HubError> {
        let client = Client::builder()
            .user_agent(concat!("tunebench/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(30))
            .read_timeout(SILENCE)
            .build()
            .map_err(|e| HubError::Failed(format!("cannot set up a connection: {}", chain(&e))))?;
        let listing = self.list(&client, progress).await?;
        let commit = listing.sha.clone().unwrap_or_else(|| self.revision.clone());
        let files = wanted(listing.siblings, &commit)?;
        if !files.iter().any(|f| f.name.ends_with(".safetensors")) {
            return Err(HubError::Input(format!(
                "{} has no weights in safetensors, and only those are read",
                self.repo
            )));
        }
        std::fs::create_dir_all(&self.to).map_err(|e| disk(&self.to, &e))?;
        let total = files.iter().filter_map(|f| f.size).fold(0, u64::saturating_add);
        let mut before = 0;
        for file in &files {
            self.file(&client, file, &commit, before, total, progress).await?;
            let size = std::fs::metadata(self.to.join(&file.name)).map_or(0, |m| m.len());
            before += file.size.unwrap_or(size);
        }
        Ok(())
    }

    async fn list(
        &self,
        client: &Client,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Listing, HubError> {
        let mut url = self.endpoint.clone();
        self.extend(&mut url, &["api", "models"], &["revision", &self.revision])?;
        url.set_query(Some("blobs=true"));
        let mut tries = Tries::new(self.first_wait);
        loop {
            let trouble = match self.get(client, url.clone(), 0).await {
                Ok(response) => match body(response).await {
                    Ok(bytes) => {
                        return serde_json::from_slice(&bytes).map_err(|e| {
                            HubError::Failed(format!(
                                "{url} does not answer as the Hugging Face hub does: {e}"
                            ))
                        });
                    }
                    Err(trouble) => trouble,
                },
                Err(Trouble::Final(error)) => return Err(error),
                Err(trouble) => trouble,
            };
            tries.wait(trouble, "the list of files", 0, 0, progress).await?;
        }
    }

    /// Path segments are escaped by the URL type: a branch's `/` becomes `%2F`.
    fn extend(&self, url: &mut Url, before: &[&str], after: &[&str]) -> Result<(), HubError> {
        let mut segments = url
            .path_segments_mut()
            .map_err(|()| HubError::Input(format!("HF_ENDPOINT `{}` is no address", self.endpoint)))?;
        segments.pop_if_empty().extend(before).extend(self.repo.split('/')).extend(after);
        Ok(())
    }

    async fn get(&self, client: &Client, url: Url, from: u64) -> Result<Response, Trouble> {
        let mut request = client.get(url);
        if let Some(token) = &self.token {
            // reqwest takes it off again when the hub sends us on to another host.
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().await.map_err(|e| Trouble::Passing(chain(&e), None))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let passing = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        if passing {
            let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            return Err(Trouble::Passing(
                format!("the server answered {status}"),
                after.map(Duration::from_secs),
            ));
        }
        let (repo, url) = (&self.repo, response.url());
        Err(Trouble::Final(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => HubError::Input(format!(
                "no access to {repo} ({status}): the name is wrong, or it is private or gated; ask for access on its page and set HF_TOKEN"
            )),
            StatusCode::NOT_FOUND => HubError::Input(format!(
                "{url} is not there: check the name of the model and the revision `{}`",
                self.revision
            )),
            _ => HubError::Failed(format!("{url} answered {status}")),
        }))
    }

    async fn file(
        &self,
        client: &Client,
        file: &Wanted,
        commit: &str,
        before: u64,
        total: u64,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        let path = self.to.join(&file.name);
        if file.size.is_some()
            && std::fs::metadata(&path).ok().map(|m| m.len()) == file.size
            && file.matches(&path)
        {
            progress(Progress {
                file: &file.name,
                done: before + file.size.unwrap_or(0),
                total,
                trouble: None,
            });
            return Ok(());
        }
        let part = self.to.join(format!(".{}.{}.part", file.name, file.content));
        let mut url = self.endpoint.clone();
        self.extend(&mut url, &[], &["resolve", commit, &file.name])?;
        let mut out = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&part)
            .map_err(|e| disk(&part, &e))?;
        if rustix::fs::flock(&out, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(HubError::Failed(format!("{} is being downloaded by somebody else", path.display())));
        }
        let mut tries = Tries::new(self.first_wait);
        loop {
            let start = out.metadata().map_err(|e| disk(&part, &e))?.len();
            let trouble = match self.transfer(client, &url, file, &mut out, before, total, progress).await {
                Ok(()) => {
                    out.sync_all().map_err(|e| disk(&part, &e))?;
                    if file.matches(&part) {
                        break;
                    }
                    out.set_len(0).map_err(|e| disk(&part, &e))?;
                    Trouble::Passing(
                        format!("{} arrived with another SHA-256 than the hub says", file.name),
                        None,
                    )
                }
                Err(Trouble::Final(error)) => return Err(error),
                Err(trouble) => {
                    let now = out.metadata().map_err(|e| disk(&part, &e))?.len();
                    if now > start {
                        tries.gained();
                    }
                    trouble
                }
            };
            let done = before + out.metadata().map_or(0, |m| m.len());
            tries.wait(trouble, &file.name, done, total, progress).await?;
        }
        std::fs::rename(&part, &path).map_err(|e| disk(&path, &e))?;
        File::open(&self.to).and_then(|dir| dir.sync_all()).map_err(|e| disk(&self.to, &e))
    }

    /// One connection's worth of a file, appended to what is there.
    async fn transfer(
        &self,
        client: &Client,
        url: &Url,
        file: &Wanted,
        out: &mut File,
        before: u64,
        total: u64,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), Trouble> {
        let on_disk = |e: std::io::Error| Trouble::Final(disk(&self.to.join(&file.name), &e));
        let mut have = out.metadata().map_err(on_disk)?.len();
        // Without a size nothing tells whether the rest is missing: from the start.
        if file.size.is_none_or(|size| have > size) {
            out.set_len(0).map_err(on_disk)?;
            have = 0;
        }
        if file.size == Some(have) && have > 0 {
            return Ok(());
        }
        let response = self.get(client, url.clone(), have).await?;
        let goes_on =
            response.status() == StatusCode::PARTIAL_CONTENT && range_start(&response) == Some(have);
        if have > 0 && !goes_on {
            out.set_len(0).map_err(on_disk)?;
            have = 0;
            if response.status() != StatusCode::OK {
                return Err(Trouble::Passing(
                    "the server does not go on where the file was cut off".into(),
                    None,
                ));
            }
        }
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Trouble::Passing("the server asks for another range".into(), None));
        }
        let size = file.size.or_else(|| response.content_length().map(|rest| have + rest));
        out.seek(SeekFrom::Start(have)).map_err(on_disk)?;
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| Trouble::Passing(chain(&e), None))?;
            have += chunk.len() as u64;
            if size.is_some_and(|size| have > size) {
                out.set_len(0).map_err(on_disk)?;
                let message =
                    format!("{url} sends more than the {} bytes that the hub lists", size.unwrap_or(0));
                return Err(Trouble::Final(HubError::Failed(message)));
            }
            out.write_all(&chunk).map_err(on_disk)?;
            progress(Progress { file: &file.name, done: before + have, total, trouble: None });
        }
        match size {
            Some(size) if have < size => {
                Err(Trouble::Passing(format!("the connection ended after {have} of {size} bytes"), None))
            }
            _ => Ok(()),
        }
    }
}

fn disk(path: &Path, error: &std::io::Error) -> HubError {
    HubError::Failed(format!("{}: {error}", path.display()))
}

impl Wanted {
    /// That a file of the right size has the right content, where the hub says what it is.
    fn matches(&self, path: &Path) -> bool {
        let Some(expect) = &self.sha256 else { return true };
        sha256(path).is_ok_and(|found| found.eq_ignore_ascii_case(expect))
    }
}

/// What keeps a transfer from its end.
#[derive(Debug)]
enum Trouble {
    /// May be better next time; with the wait that the server asks for.
    Passing(String, Option<Duration>),
    Final(HubError),
}

/// Counts failures in a row and waits longer after each.
struct Tries {
    failed: u32,
    first_wait: Duration,
}

impl Tries {
    const fn new(first_wait: Duration) -> Self {
        Self { failed: 0, first_wait }
    }

    const fn gained(&mut self) {
        self.failed = 0;
    }

    async fn wait(
        &mut self,
        trouble: Trouble,
        file: &str,
        done: u64,
        total: u64,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        let (reason, asked) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Passing(reason, asked) => (reason, asked),
        };
        self.failed += 1;
        if self.failed >= TRIES {
            let message = format!("{file}: {reason}, {TRIES} times in a row; call again to go on from here");
            return Err(HubError::Failed(message));
        }
        let wait = asked.unwrap_or(self.first_wait * 2_u32.pow(self.failed - 1)).min(LONGEST_WAIT);
        let message = format!("{reason}; next try in {:.1} s", wait.as_secs_f64());
        progress(Progress { file, done, total, trouble: Some(&message) });
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// The files that a model needs, small ones first. Those in subfolders are other forms of the weights.
fn wanted(listed: Vec<Listed>, commit: &str) -> Result<Vec<Wanted>, HubError> {
    let mut files = Vec::new();
    for file in listed {
        let name = file.rfilename;
        let inside = Path::new(&name).components().all(|c| matches!(c, Component::Normal(_)));
        if name.is_empty() || !inside || name.contains(['\\', '\0']) || name.chars().any(char::is_control) {
            return Err(HubError::Failed(format!(
                "the server lists a file that would lead out of the folder: {name:?}"
            )));
        }
        let kinds = [".safetensors", ".json", ".model", ".jinja"];
        if name.contains('/') || name.starts_with('.') || !kinds.iter().any(|k| name.ends_with(k)) {
            continue;
        }
        let sha256 = file.lfs.as_ref().and_then(|l| l.sha256.clone());
        let id: String = sha256
            .as_deref()
            .or(file.blob.as_deref())
            .unwrap_or(commit)
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(16)
            .collect();
        let size = file.lfs.as_ref().and_then(|l| l.size).or(file.size);
        files.push(Wanted { name, size, sha256, content: id });
    }
    // Mistral's own form of the same weights stands beside that of transformers.
    if files.iter().any(|f| f.name.starts_with("model") && f.name.ends_with(".safetensors")) {
        files.retain(|f| !f.name.starts_with("consolidated"));
    }
    files.sort_by_key(|f| (f.size, f.name.clone()));
    Ok(files)
}

/// First byte of a partial answer: `bytes 100-199/200`.
fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

async fn body(response: Response) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|e| Trouble::Passing(chain(&e), None))?);
        if bytes.len() > MAX_LIST {
            let message = format!("the server's list of files is larger than {} MB", MAX_LIST >> 20);
            return Err(Trouble::Final(HubError::Failed(message)));
        }
    }
    Ok(bytes)
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect());
        }
        hash.update(buffer.get(..n).unwrap_or_default());
    }
}

/// An error with its causes; reqwest's own says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;

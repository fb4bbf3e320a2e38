//! The lines of a workload in systemd's journal over HTTP, as `journalctl` prints them.

use super::Api;
use super::error::Failure;
use super::logs::{WAITING, body};
use axum::body::Bytes;
use axum::response::Response;
use enforcer_core::ReplicaId;
use enforcer_kernel::journal::{self, Wanted};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdout};
use tokio::sync::{Semaphore, mpsc};

/// The most bytes of one chunk.
const CHUNK: usize = 64 << 10;
/// The most bytes of an error of `journalctl`.
const LONGEST_ERROR: u64 = 4 << 10;
/// Each reader is a process of its own, and everybody who may look may start one.
const MAX_READERS: usize = 16;
static READERS: Semaphore = Semaphore::const_new(MAX_READERS);

/// Answers with the lines, and goes on with new ones if they are followed.
///
/// # Errors
/// If `journalctl` cannot be started, or fails before it has printed a line.
pub(super) async fn lines(
    api: &Api,
    workload: &ReplicaId,
    wanted: Wanted,
) -> Result<Response, Failure> {
    let place = READERS.try_acquire().map_err(|_| {
        Failure::busy(format!(
            "{MAX_READERS} others read the journal; try again when one has ended"
        ))
    })?;
    let unit = api.executor.unit();
    let mut reader = journal::read(&workload.file_name(), unit.as_deref(), wanted)
        .map_err(|error| Failure::refused(format!("failed to start journalctl: {error}")))?;
    let stdout = reader.stdout.take();
    let mut stdout = stdout.ok_or_else(|| Failure::refused("journalctl has no output"))?;
    // The first line may be long in coming if lines are followed.
    let first = match wanted.follow {
        true => Bytes::new(),
        false => first_chunk(&mut reader, &mut stdout).await?,
    };
    let (chunks, waiting) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let _place = place;
        let mut chunk = first;
        loop {
            if !chunk.is_empty() && chunks.send(chunk).await.is_err() {
                return;
            }
            chunk = tokio::select! {
                read = read(&mut stdout) => match read {
                    Ok(read) if !read.is_empty() => read,
                    Ok(_) | Err(_) => break,
                },
                // Drops `reader`, which kills the process.
                () = chunks.closed() => return,
            };
        }
        match reader.wait().await {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!("journalctl ended with {status}"),
            Err(error) => tracing::warn!("failed to wait for journalctl: {error}"),
        }
    });
    Ok(body(waiting))
}

async fn read(stdout: &mut ChildStdout) -> std::io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK];
    let length = stdout.read(&mut chunk).await?;
    chunk.truncate(length);
    Ok(chunk.into())
}

/// Reads the first chunk. An end without any is an error if `journalctl` says so.
async fn first_chunk(reader: &mut Child, stdout: &mut ChildStdout) -> Result<Bytes, Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::refused(format!("failed to read the journal: {error}"))
    };
    let chunk = read(stdout).await.map_err(|error| failed(&error))?;
    if !chunk.is_empty() {
        return Ok(chunk);
    }
    let mut text = String::new();
    if let Some(stderr) = reader.stderr.take() {
        // Without the error's text, the exit status still says that it failed.
        let _ = stderr.take(LONGEST_ERROR).read_to_string(&mut text).await;
    }
    let status = reader.wait().await.map_err(|error| failed(&error))?;
    match status.success() {
        true => Ok(chunk),
        false => Err(failed(&format!("{status}: {}", text.trim()))),
    }
}

//! Takes a body from the wire to disk and checks it against everything the client said of it.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::HeaderMap;
use s3s::TrailingHeaders;
use s3s::dto::StreamingBlob;
use tokio::sync::mpsc;

use crate::blocking;
use crate::body::{Bodies, BodyWriter, NewBody, Reader};
use crate::checksum::{Algorithm, Digests, Hasher};
use crate::error::BucketError;
use crate::store::Source;

const MAX_BODY_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// How many pieces of a body may wait for the disk.
const PIECES_IN_FLIGHT: usize = 8;

/// A body on the wire and what its request says of it.
pub(crate) struct Upstream {
    pub(crate) body: Option<StreamingBlob>,
    pub(crate) length: Option<i64>,
    pub(crate) content_md5: Option<String>,
    pub(crate) declared: Vec<(Algorithm, String)>,
    /// Whose values follow the body.
    pub(crate) announced: Vec<Algorithm>,
    pub(crate) trailers: Option<TrailingHeaders>,
}

impl Upstream {
    /// The algorithms `x-amz-trailer` announces.
    pub(crate) fn announced(headers: &HeaderMap) -> Vec<Algorithm> {
        let values = headers.get_all("x-amz-trailer").into_iter().filter_map(|value| value.to_str().ok());
        let names = values.flat_map(|value| value.split(',')).map(str::trim);
        names.filter_map(|name| Algorithm::ALL.into_iter().find(|algorithm| algorithm.header() == name)).collect()
    }

    /// The algorithm the client chose, by a value or by announcing one; S3 takes one at most.
    pub(crate) fn chosen(&self) -> Result<Option<Algorithm>, BucketError> {
        let mut chosen = None;
        for algorithm in self.declared.iter().map(|(algorithm, _)| *algorithm).chain(self.announced.iter().copied()) {
            if chosen.is_some_and(|chosen| chosen != algorithm) {
                let message = "Expecting a single x-amz-checksum- header. Multiple checksum types are not allowed.";
                return Err(BucketError::InvalidRequest(message.to_owned()));
            }
            chosen = Some(algorithm);
        }
        Ok(chosen)
    }

    /// Returns once the body is on disk and proved to be what was declared; otherwise nothing of it is left.
    pub(crate) async fn receive(
        mut self,
        bodies: &Arc<Bodies>,
        algorithm: Algorithm,
    ) -> Result<(Source, Digests), BucketError> {
        let length = self.length.and_then(|length| u64::try_from(length).ok());
        if length.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(BucketError::EntityTooLarge);
        }
        let mut algorithms = vec![algorithm];
        algorithms.extend(self.chosen()?);

        let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let bodies = bodies.clone();
        let writer = tokio::spawn(blocking(move || write(&bodies, Hasher::new(&algorithms), receiver)));
        if let Some(mut body) = self.body.take() {
            while let Some(piece) = body.next().await {
                // A closed channel means that the writer failed: it tells why below.
                if sender.send(piece.map_err(BucketError::Body)?).await.is_err() {
                    break;
                }
            }
        }
        drop(sender);
        let (body, digests) = writer.await.map_err(BucketError::Stopping)??;

        if let Some(declared) = length.filter(|declared| *declared != digests.size) {
            return Err(BucketError::IncompleteBody { declared, received: digests.size });
        }
        self.verify(&digests)?;
        Ok((Source::New(body), digests))
    }

    fn verify(&self, digests: &Digests) -> Result<(), BucketError> {
        if let Some(declared) = &self.content_md5 {
            same("MD5", declared, &digests.content_md5())?;
        }
        for (algorithm, declared) in &self.declared {
            same(algorithm.name(), declared, digests.value(*algorithm).unwrap_or_default())?;
        }
        let trailers = self.trailers.as_ref().and_then(TrailingHeaders::take).unwrap_or_default();
        for algorithm in &self.announced {
            let trailer = trailers.get(algorithm.header()).and_then(|value| value.to_str().ok());
            let Some(declared) = trailer else {
                let message = format!("the announced trailer `{}` did not follow the body", algorithm.header());
                return Err(BucketError::InvalidRequest(message));
            };
            same(algorithm.name(), declared, digests.value(*algorithm).unwrap_or_default())?;
        }
        Ok(())
    }
}

fn same(name: &'static str, declared: &str, computed: &str) -> Result<(), BucketError> {
    if declared == computed {
        return Ok(());
    }
    Err(BucketError::BadDigest { name, declared: declared.to_owned(), computed: computed.to_owned() })
}

/// Hashing and writing happen beside the network, so that each waits for the other only when it is slower.
fn write(
    bodies: &Arc<Bodies>,
    mut hasher: Hasher,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<(Option<NewBody>, Digests), BucketError> {
    let mut writer: Option<BodyWriter> = None;
    while let Some(piece) = pieces.blocking_recv() {
        hasher.update(&piece);
        match &mut writer {
            Some(writer) => writer.write(&piece)?,
            None => writer.insert(bodies.create()?).write(&piece)?,
        }
    }
    let body = writer.map(BodyWriter::finish).transpose()?;
    Ok((body, hasher.finish()))
}

/// The digests of bytes already stored. Blocks.
pub(crate) fn digest(reader: &mut Reader, algorithm: Algorithm) -> Result<Digests, BucketError> {
    let mut hasher = Hasher::new(&[algorithm]);
    while let Some(piece) = reader.next_piece()? {
        hasher.update(&piece);
    }
    Ok(hasher.finish())
}

//! The S3 operations, from the wire types of `s3s` to the store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, StatusCode, header};
use s3s::access::{S3Access, S3AccessContext};
use s3s::dto::*;
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use crate::blocking;
use crate::body::Content;
use crate::checksum::{Algorithm, Kind};
use crate::dto::{declared_checksums, kept_headers, refuse, set_checksum};
use crate::error::BucketError;
use crate::event::percent_encode;
use crate::receive::{Upstream, digest};
use crate::store::{self, Completion, Listing, NewObject, Precondition, Source, Store};
use crate::{config, dto};

const MAX_KEYS: i32 = 1_000;
const MAX_COPY_BYTES: u64 = 5 * 1024 * 1024 * 1024;

pub(crate) struct Service {
    pub(crate) store: Arc<Store>,
    pub(crate) region: String,
}

impl Service {
    /// Runs a step that touches the disk.
    async fn with_store<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Store) -> Result<T, BucketError> + Send + 'static,
    ) -> S3Result<T> {
        let store = self.store.clone();
        Ok(blocking(move || step(&store)).await?)
    }

    async fn copy_source(&self, source: CopySource, conditions: ReadConditions) -> S3Result<(store::Object, Content)> {
        let CopySource::Bucket { bucket, key, version_id } = source else {
            return Err(s3_error!(NotImplemented, "a copy source is `<bucket>/<key>`"));
        };
        current_version(version_id.as_deref())?;
        let found = self.with_store(move |store| store.object_with_content(&bucket, &key)).await?;
        match conditions.check(&found.0) {
            Verdict::Read => Ok(found),
            Verdict::NotModified | Verdict::Failed => Err(BucketError::PreconditionFailed.into()),
        }
    }
}

/// There are no versions, so the only one is `null`.
fn current_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "this service keeps no versions")),
    }
}

fn check_readable(version: Option<&str>, part_number: Option<i32>) -> S3Result<()> {
    if part_number.is_some() {
        return Err(s3_error!(NotImplemented, "reading an object by part number"));
    }
    current_version(version)
}

/// The conditions under which a client wants to read an object.
struct ReadConditions {
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
}

enum Verdict {
    Read,
    NotModified,
    Failed,
}

impl ReadConditions {
    /// In the order of RFC 9110, section 13.2.2: an ETag condition makes the date beside it moot.
    fn check(&self, object: &store::Object) -> Verdict {
        let modified_at = dto::timestamp(object.modified_at);
        let failed = match (&self.if_match, &self.if_unmodified_since) {
            (Some(wanted), _) => !store::etag_matches(wanted, &object.etag),
            (None, Some(since)) => modified_at > *since,
            (None, None) => false,
        };
        if failed {
            return Verdict::Failed;
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(known), _) => store::etag_matches(known, &object.etag),
            (None, Some(since)) => modified_at <= *since,
            (None, None) => false,
        };
        if unchanged { Verdict::NotModified } else { Verdict::Read }
    }

    fn require(&self, object: &store::Object) -> S3Result<()> {
        match self.check(object) {
            Verdict::Read => Ok(()),
            Verdict::Failed => Err(BucketError::PreconditionFailed.into()),
            Verdict::NotModified => {
                let mut answer = s3_error!(NotModified);
                let etag = dto::etag(&object.etag).to_http_header().map_err(s3s::S3Error::internal_error)?;
                answer.set_headers(HeaderMap::from_iter([(header::ETAG, etag)]));
                Err(answer)
            }
        }
    }
}

macro_rules! read_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.if_match.take(),
            if_none_match: $input.if_none_match.take(),
            if_modified_since: $input.if_modified_since.take(),
            if_unmodified_since: $input.if_unmodified_since.take(),
        }
    };
}

macro_rules! copy_conditions {
    ($input:expr) => {
        ReadConditions {
            if_match: $input.copy_source_if_match.take(),
            if_none_match: $input.copy_source_if_none_match.take(),
            if_modified_since: $input.copy_source_if_modified_since.take(),
            if_unmodified_since: $input.copy_source_if_unmodified_since.take(),
        }
    };
}

macro_rules! upstream {
    ($request:expr) => {
        Upstream {
            body: $request.input.body.take(),
            length: $request.input.content_length,
            content_md5: $request.input.content_md5.take(),
            declared: declared_checksums!($request.input),
            announced: Upstream::announced(&$request.headers),
            trailers: $request.trailing_headers.take(),
        }
    };
}

macro_rules! set_object {
    ($output:expr, $object:expr) => {{
        let headers = $object.headers;
        $output.accept_ranges = Some("bytes".to_owned());
        $output.e_tag = Some(dto::etag(&$object.etag));
        $output.last_modified = Some(dto::timestamp($object.modified_at));
        $output.expires = dto::expires(&headers);
        $output.metadata = dto::metadata(&headers);
        $output.content_type = Some(headers.content_type.unwrap_or_else(|| "binary/octet-stream".to_owned()));
        $output.cache_control = headers.cache_control;
        $output.content_disposition = headers.content_disposition;
        $output.content_encoding = headers.content_encoding;
        $output.content_language = headers.content_language;
        $output.storage_class = headers.storage_class.map(StorageClass::from);
    }};
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

fn is_url_encoded(encoding: Option<&EncodingType>) -> bool {
    encoding.is_some_and(|encoding| encoding.as_str() == EncodingType::URL)
}

fn encode_listed(text: String, url: bool) -> String {
    if url { percent_encode(&text, |byte| matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/')) } else { text }
}

fn limit(wanted: Option<i32>, name: &str) -> S3Result<(i32, usize)> {
    let limit = wanted.unwrap_or(MAX_KEYS).min(MAX_KEYS);
    match usize::try_from(limit) {
        Ok(count) => Ok((limit, count)),
        Err(_) => Err(s3_error!(InvalidArgument, "`{name}` must not be negative")),
    }
}

fn check_part_number(number: i32) -> S3Result<()> {
    if (1..=store::MAX_PART_NUMBER).contains(&number) {
        return Ok(());
    }
    let max = store::MAX_PART_NUMBER;
    Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and {max}, inclusive"))
}

fn destination_precondition(headers: &HeaderMap) -> S3Result<Precondition> {
    let condition = |name: HeaderName| match headers.get(&name) {
        None => Ok(None),
        Some(value) => ETagCondition::parse_http_header(value.as_bytes())
            .map(Some)
            .map_err(|_| s3_error!(InvalidArgument, "the header `{name}` is not an ETag condition")),
    };
    Ok(Precondition { if_match: condition(header::IF_MATCH)?, if_none_match: condition(header::IF_NONE_MATCH)? })
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket;
        let location = format!("/{bucket}");
        let created = self.with_store(move |store| store.create_bucket(&bucket, None)).await?;
        // The oldest region alone answers a repetition as if it were the first time.
        if !created && self.region != "us-east-1" {
            return Err(s3_error!(BucketAlreadyOwnedByYou, "the bucket exists and is yours"));
        }
        Ok(S3Response::new(CreateBucketOutput { location: Some(location) }))
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.with_store(move |store| store.config(&request.input.bucket)).await?;
        let bucket_region = Some(self.region.clone());
        Ok(S3Response::new(HeadBucketOutput { bucket_region, ..HeadBucketOutput::default() }))
    }

    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.with_store(Store::buckets).await?;
        let buckets = buckets.into_iter().map(|(name, created_at)| Bucket {
            name: Some(name),
            creation_date: Some(dto::timestamp(created_at)),
            bucket_region: Some(self.region.clone()),
        });
        let owner = Owner { id: Some("LOCAL".to_owned()), ..Owner::default() };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets.collect()),
            owner: Some(owner),
            ..ListBucketsOutput::default()
        }))
    }

    async fn delete_bucket(&self, request: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.with_store(move |store| store.delete_bucket(&request.input.bucket)).await?;
        Ok(S3Response::with_status(DeleteBucketOutput::default(), StatusCode::NO_CONTENT))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.with_store(move |store| store.config(&request.input.bucket)).await?;
        let location = (self.region != "us-east-1").then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint: location }))
    }

    async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let input = &mut request.input;
        refuse!(input; tagging: "x-amz-tagging", sse_customer_key: "SSE-C", write_offset_bytes: "x-amz-write-offset-bytes",
            object_lock_mode: "object lock");
        let headers = kept_headers!(input);
        let precondition = Precondition { if_match: input.if_match.take(), if_none_match: input.if_none_match.take() };
        let named = input.checksum_algorithm.take().map(|name| dto::parse_algorithm(name.as_str())).transpose()?;
        let upstream = upstream!(request);
        let algorithm = upstream.chosen()?.or(named).unwrap_or(Algorithm::Crc64Nvme);
        let (bucket, key) = (request.input.bucket, request.input.key);

        let (source, digests) = upstream.receive(&self.store.bodies, algorithm).await?;
        let object = self
            .with_store(move |store| {
                let checksum = digests.checksum(algorithm).ok_or(BucketError::Checksum { number: 1 })?;
                let (size, etag, event_name) = (digests.size, digests.etag(), "ObjectCreated:Put");
                let new = NewObject { source, size, etag, checksum, headers, precondition, event_name };
                store.put_object(&bucket, &key, new)
            })
            .await?;
        let mut output = PutObjectOutput { e_tag: Some(dto::etag(&object.etag)), ..PutObjectOutput::default() };
        output.checksum_type = Some(dto::checksum_type(object.checksum.kind));
        set_checksum!(output, object.checksum);
        Ok(S3Response::new(output))
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let mut input = request.input;
        let conditions = read_conditions!(input);
        check_readable(input.version_id.as_deref(), input.part_number)?;
        let (object, content) =
            self.with_store(move |store| store.object_with_content(&input.bucket, &input.key)).await?;
        conditions.require(&object)?;
        let size = object.size;
        let range = input.range.map(|range| range.check(size)).transpose()?;
        let mut output = GetObjectOutput::default();
        if let Some(Range { start, end }) = &range {
            output.content_range = Some(format!("bytes {start}-{}/{size}", end.saturating_sub(1)));
        } else if wants_checksum(input.checksum_mode.as_ref()) {
            output.checksum_type = Some(dto::checksum_type(object.checksum.kind));
            set_checksum!(output, object.checksum);
        }
        let range = range.unwrap_or(0..size);
        output.content_length = dto::length(range.end - range.start);
        output.body = Some(StreamingBlob::wrap(content.read(&range).into_stream()));
        set_object!(output, object);
        Ok(S3Response::new(output))
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let mut input = request.input;
        let conditions = read_conditions!(input);
        check_readable(input.version_id.as_deref(), input.part_number)?;
        let object = self.with_store(move |store| store.object(&input.bucket, &input.key)).await?;
        conditions.require(&object)?;
        let mut output = HeadObjectOutput { content_length: dto::length(object.size), ..HeadObjectOutput::default() };
        if wants_checksum(input.checksum_mode.as_ref()) {
            output.checksum_type = Some(dto::checksum_type(object.checksum.kind));
            set_checksum!(output, object.checksum);
        }
        set_object!(output, object);
        Ok(S3Response::new(output))
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        current_version(input.version_id.as_deref())?;
        let precondition = Precondition { if_match: input.if_match, if_none_match: None };
        let keys = vec![(input.key, precondition)];
        let outcomes = self.with_store(move |store| store.delete_objects(&input.bucket, &keys)).await?;
        outcomes.into_iter().collect::<Result<Vec<()>, BucketError>>()?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), StatusCode::NO_CONTENT))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let Delete { objects, quiet } = request.input.delete;
        if objects.is_empty() || objects.len() > 1_000 {
            return Err(s3_error!(MalformedXML, "one request deletes 1 to 1000 objects"));
        }
        let mut keys = Vec::with_capacity(objects.len());
        for object in objects {
            current_version(object.version_id.as_deref())?;
            keys.push((
                object.key,
                Precondition { if_match: object.e_tag.map(ETagCondition::ETag), if_none_match: None },
            ));
        }
        let names: Vec<String> = keys.iter().map(|(key, _)| key.clone()).collect();
        let outcomes = self.with_store(move |store| store.delete_objects(&request.input.bucket, &keys)).await?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for (key, outcome) in names.into_iter().zip(outcomes) {
            match outcome.map_err(s3s::S3Error::from) {
                Ok(()) => deleted.push(DeletedObject { key: Some(key), ..DeletedObject::default() }),
                Err(error) => errors.push(Error {
                    key: Some(key),
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    version_id: None,
                }),
            }
        }
        let deleted = (!quiet.unwrap_or(false)).then_some(deleted);
        let errors = (!errors.is_empty()).then_some(errors);
        Ok(S3Response::new(DeleteObjectsOutput { deleted, errors, ..DeleteObjectsOutput::default() }))
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let precondition = destination_precondition(&request.headers)?;
        let mut input = request.input;
        refuse!(input; tagging: "x-amz-tagging", sse_customer_key: "SSE-C");
        let conditions = copy_conditions!(input);
        let replaces = input.metadata_directive.as_ref().is_some_and(|it| it.as_str() == MetadataDirective::REPLACE);
        let onto_itself = matches!(&input.copy_source, CopySource::Bucket { bucket, key, .. }
            if **bucket == *input.bucket && **key == *input.key);
        if onto_itself && !replaces {
            return Err(s3_error!(InvalidRequest, "an object is copied onto itself only with new metadata"));
        }
        let named = input.checksum_algorithm.take().map(|name| dto::parse_algorithm(name.as_str())).transpose()?;
        let (found, content) = self.copy_source(input.copy_source.clone(), conditions).await?;
        if found.size > MAX_COPY_BYTES {
            return Err(s3_error!(InvalidRequest, "an object over 5 GiB is copied with UploadPartCopy"));
        }
        let headers = if replaces { kept_headers!(input) } else { found.headers.clone() };
        let object = self
            .with_store(move |store| {
                let whole = 0..found.size;
                let segments = content.range(&whole);
                let algorithm = named.unwrap_or(found.checksum.algorithm);
                let is_multipart = found.etag.contains('-');
                let known = found.checksum.algorithm == algorithm && found.checksum.kind == Kind::FullObject;
                // The copy keeps the bodies alive by its own segments, the reader until those are committed.
                let mut reader = content.read(&whole);
                let (etag, checksum) = if is_multipart || !known {
                    let digests = digest(&mut reader, algorithm)?;
                    (digests.etag(), digests.checksum(algorithm).ok_or(BucketError::Checksum { number: 1 })?)
                } else {
                    (found.etag, found.checksum)
                };
                let (source, size, event_name) = (Source::Shared(segments), found.size, "ObjectCreated:Copy");
                let new = NewObject { source, size, etag, checksum, headers, precondition, event_name };
                store.put_object(&input.bucket, &input.key, new)
            })
            .await?;
        let mut result = CopyObjectResult {
            e_tag: Some(dto::etag(&object.etag)),
            last_modified: Some(dto::timestamp(object.modified_at)),
            checksum_type: Some(dto::checksum_type(object.checksum.kind)),
            ..CopyObjectResult::default()
        };
        set_checksum!(result, object.checksum);
        Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..CopyObjectOutput::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let (max_keys, limit) = limit(input.max_keys, "max-keys")?;
        let from = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?,
            (None, Some(after)) => store::after_key(after),
            (None, None) => String::new(),
        };
        let listing = Listing {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone(),
            from,
            limit,
        };
        let bucket = input.bucket.clone();
        let page = self.with_store(move |store| store.list(&bucket, &listing)).await?;

        let url = is_url_encoded(input.encoding_type.as_ref());
        let count = page.objects.len() + page.common_prefixes.len();
        let owner =
            input.fetch_owner.unwrap_or(false).then(|| Owner { id: Some("LOCAL".to_owned()), ..Owner::default() });
        let contents = page.objects.into_iter().map(|(key, object)| Object {
            key: Some(encode_listed(key, url)),
            size: dto::length(object.size),
            e_tag: Some(dto::etag(&object.etag)),
            last_modified: Some(dto::timestamp(object.modified_at)),
            checksum_algorithm: Some(vec![ChecksumAlgorithm::from_static(object.checksum.algorithm.name())]),
            checksum_type: Some(dto::checksum_type(object.checksum.kind)),
            storage_class: Some(match object.headers.storage_class {
                Some(class) => ObjectStorageClass::from(class),
                None => ObjectStorageClass::from_static(ObjectStorageClass::STANDARD),
            }),
            owner: owner.clone(),
            ..Object::default()
        });
        let prefixes =
            page.common_prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(encode_listed(prefix, url)) });
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: Some(encode_listed(input.prefix.unwrap_or_default(), url)),
            delimiter: input.delimiter.map(|delimiter| encode_listed(delimiter, url)),
            start_after: input.start_after.map(|after| encode_listed(after, url)),
            encoding_type: input.encoding_type,
            max_keys: Some(max_keys),
            key_count: i32::try_from(count).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.map(|next| URL_SAFE_NO_PAD.encode(next)),
            contents: Some(contents.collect()),
            common_prefixes: Some(prefixes.collect()),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let mut input = request.input;
        refuse!(input; tagging: "x-amz-tagging", sse_customer_key: "SSE-C", object_lock_mode: "object lock");
        let headers = kept_headers!(input);
        let algorithm = input.checksum_algorithm.map(|name| dto::parse_algorithm(name.as_str())).transpose()?;
        let kind = input.checksum_type.map(|name| dto::parse_kind(name.as_str())).transpose()?;
        let bucket = input.bucket.clone();
        let upload =
            self.with_store(move |store| store.create_upload(&bucket, &input.key, headers, algorithm, kind)).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(upload.key),
            upload_id: Some(upload.id),
            checksum_algorithm: algorithm.map(|algorithm| ChecksumAlgorithm::from_static(algorithm.name())),
            checksum_type: algorithm.map(|_| dto::checksum_type(upload.kind)),
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(&self, mut request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        refuse!(request.input; sse_customer_key: "SSE-C");
        let number = request.input.part_number;
        check_part_number(number)?;
        let upstream = upstream!(request);
        let input = request.input;
        let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
        let (upload, (bucket, key, id)) =
            self.with_store(move |store| Ok((store.upload(&bucket, &key, &id)?, (bucket, key, id)))).await?;
        let chosen = upstream.chosen()?;
        // A composite is made of what clients say of the parts; a checksum of the whole S3 computes by itself.
        let needed = chosen.is_none() && upload.kind == Kind::Composite;
        let other = chosen.is_some_and(|actual| actual != upload.algorithm);
        if upload.declared && (needed || other) {
            let (expected, actual) = (upload.algorithm.name(), chosen.map_or("null", Algorithm::name));
            return Err(s3_error!(
                InvalidRequest,
                "Checksum Type mismatch occurred, expected checksum Type: {expected}, actual checksum Type: {actual}"
            ));
        }
        let (source, digests) = upstream.receive(&self.store.bodies, upload.algorithm).await?;
        // The part's checksum is the upload's; a client that chose another reads back the one it sent.
        let answered = digests.checksum(chosen.unwrap_or(upload.algorithm));
        let part = self.with_store(move |store| store.put_part((&bucket, &key, &id), number, source, &digests)).await?;
        let mut output = UploadPartOutput { e_tag: Some(dto::etag(&part.etag)), ..UploadPartOutput::default() };
        if let Some(checksum) = answered {
            set_checksum!(output, checksum);
        }
        Ok(S3Response::new(output))
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let mut input = request.input;
        let number = input.part_number;
        check_part_number(number)?;
        let conditions = copy_conditions!(input);
        let (found, content) = self.copy_source(input.copy_source, conditions).await?;
        let range = match input.copy_source_range.as_deref().map(s3s::dto::Range::parse) {
            None => 0..found.size,
            Some(Ok(s3s::dto::Range::Int { first, last: Some(last) })) if last < found.size => first..last + 1,
            Some(_) => {
                let size = found.size;
                return Err(s3_error!(
                    InvalidArgument,
                    "Range specified is not valid for source object of size: {size}"
                ));
            }
        };
        if range.end - range.start > MAX_COPY_BYTES {
            return Err(BucketError::EntityTooLarge.into());
        }
        let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
        let part = self
            .with_store(move |store| {
                let upload = store.upload(&bucket, &key, &id)?;
                let source = Source::Shared(content.range(&range));
                let mut reader = content.read(&range);
                let digests = digest(&mut reader, upload.algorithm)?;
                store.put_part((&bucket, &key, &id), number, source, &digests)
            })
            .await?;
        let mut result = CopyPartResult {
            e_tag: Some(dto::etag(&part.etag)),
            last_modified: Some(dto::timestamp(part.modified_at)),
            ..CopyPartResult::default()
        };
        set_checksum!(result, part.checksum);
        Ok(S3Response::new(UploadPartCopyOutput { copy_part_result: Some(result), ..UploadPartCopyOutput::default() }))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let input = request.input;
        let (max_parts, limit) = limit(input.max_parts, "max-parts")?;
        let after = input.part_number_marker.unwrap_or(0);
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
        let (upload, mut parts) =
            self.with_store(move |store| store.upload_with_parts((&bucket, &key, &id), after, limit + 1)).await?;
        let is_truncated = parts.len() > limit;
        parts.truncate(limit);
        let next = parts.last().map(|part| part.number);
        let parts = parts.into_iter().map(|part| {
            let mut listed = Part {
                part_number: Some(part.number),
                size: dto::length(part.size),
                e_tag: Some(dto::etag(&part.etag)),
                last_modified: Some(dto::timestamp(part.modified_at)),
                ..Part::default()
            };
            set_checksum!(listed, part.checksum);
            listed
        });
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            part_number_marker: Some(after),
            next_part_number_marker: next,
            max_parts: Some(max_parts),
            is_truncated: Some(is_truncated),
            parts: Some(parts.collect()),
            checksum_algorithm: Some(ChecksumAlgorithm::from_static(upload.algorithm.name())),
            checksum_type: Some(dto::checksum_type(upload.kind)),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..ListPartsOutput::default()
        }))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        refuse!(input; delimiter: "a delimiter for multipart uploads");
        let (max_uploads, limit) = limit(input.max_uploads, "max-uploads")?;
        let (bucket, prefix) = (input.bucket.clone(), input.prefix.clone().unwrap_or_default());
        // Without an upload to start behind, every upload of the marker's key is left out.
        let after = input
            .key_marker
            .clone()
            .filter(|key| !key.is_empty())
            .map(|key| (key, input.upload_id_marker.clone().unwrap_or_else(|| char::MAX.to_string())));
        let mut uploads = self
            .with_store(move |store| {
                let after = after.as_ref().map(|(key, id)| (key.as_str(), id.as_str()));
                store.uploads(&bucket, &prefix, after, limit + 1)
            })
            .await?;
        let is_truncated = uploads.len() > limit;
        uploads.truncate(limit);
        let url = is_url_encoded(input.encoding_type.as_ref());
        let next = uploads.last().filter(|_| is_truncated);
        let next_key_marker = next.map(|upload| encode_listed(upload.key.clone(), url));
        let next_upload_id_marker = next.map(|upload| upload.id.clone());
        let uploads = uploads.into_iter().map(|upload| MultipartUpload {
            key: Some(encode_listed(upload.key, url)),
            upload_id: Some(upload.id),
            initiated: Some(dto::timestamp(upload.initiated_at)),
            checksum_algorithm: Some(ChecksumAlgorithm::from_static(upload.algorithm.name())),
            checksum_type: Some(dto::checksum_type(upload.kind)),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..MultipartUpload::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            prefix: input.prefix.map(|prefix| encode_listed(prefix, url)),
            key_marker: Some(encode_listed(input.key_marker.unwrap_or_default(), url)),
            upload_id_marker: input.upload_id_marker,
            encoding_type: input.encoding_type,
            max_uploads: Some(max_uploads),
            is_truncated: Some(is_truncated),
            next_key_marker,
            next_upload_id_marker,
            uploads: Some(uploads.collect()),
            ..ListMultipartUploadsOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let mut parts = Vec::new();
        for part in input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref()).unwrap_or_default() {
            let (Some(number), Some(etag)) = (part.part_number, &part.e_tag) else {
                return Err(s3_error!(MalformedXML, "every part has a `PartNumber` and an `ETag`"));
            };
            let etag = etag.value().to_owned();
            parts.push(store::CompletedPart { number, etag, checksums: declared_checksums!(part) });
        }
        let completion = Completion {
            parts,
            size: input.mpu_object_size.and_then(|size| u64::try_from(size).ok()),
            kind: input.checksum_type.as_ref().map(|name| dto::parse_kind(name.as_str())).transpose()?,
            checksums: declared_checksums!(input),
            precondition: Precondition { if_match: input.if_match, if_none_match: input.if_none_match },
        };
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id);
        let object = self.with_store(move |store| store.complete_upload((&bucket, &key, &id), &completion)).await?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!(
                "/{}/{}",
                input.bucket,
                percent_encode(&input.key, |byte| b"-_.~/".contains(&byte))
            )),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(dto::etag(&object.etag)),
            checksum_type: Some(dto::checksum_type(object.checksum.kind)),
            ..CompleteMultipartUploadOutput::default()
        };
        set_checksum!(output, object.checksum);
        Ok(S3Response::new(output))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = request.input;
        self.with_store(move |store| store.abort_upload(&input.bucket, &input.key, &input.upload_id)).await?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), StatusCode::NO_CONTENT))
    }

    async fn put_bucket_cors(
        &self,
        request: S3Request<PutBucketCorsInput>,
    ) -> S3Result<S3Response<PutBucketCorsOutput>> {
        let input = request.input;
        let rules = input.cors_configuration.cors_rules.into_iter().map(dto::cors_from).collect();
        self.with_store(move |store| store.update_config(&input.bucket, |config| config.cors = rules)).await?;
        Ok(S3Response::new(PutBucketCorsOutput::default()))
    }

    async fn get_bucket_cors(
        &self,
        request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        let rules = self.with_store(move |store| store.config(&request.input.bucket)).await?.cors;
        if rules.is_empty() {
            return Err(s3_error!(NoSuchCORSConfiguration, "The CORS configuration does not exist"));
        }
        let rules = rules.into_iter().map(dto::cors_to).collect();
        Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(rules) }))
    }

    async fn delete_bucket_cors(
        &self,
        request: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
        self.with_store(move |store| store.update_config(&request.input.bucket, |config| config.cors.clear())).await?;
        Ok(S3Response::with_status(DeleteBucketCorsOutput::default(), StatusCode::NO_CONTENT))
    }

    async fn put_bucket_lifecycle_configuration(
        &self,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let input = request.input;
        let rules = input.lifecycle_configuration.map(|lifecycle| lifecycle.rules).unwrap_or_default();
        let rules = rules.into_iter().map(dto::lifecycle_from).collect::<Result<Vec<config::LifecycleRule>, _>>()?;
        self.with_store(move |store| store.update_config(&input.bucket, |config| config.lifecycle = rules)).await?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let rules = self.with_store(move |store| store.config(&request.input.bucket)).await?.lifecycle;
        if rules.is_empty() {
            return Err(s3_error!(NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist"));
        }
        let rules = Some(rules.into_iter().map(dto::lifecycle_to).collect());
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
            rules,
            ..GetBucketLifecycleConfigurationOutput::default()
        }))
    }

    async fn delete_bucket_lifecycle(
        &self,
        request: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        let bucket = request.input.bucket;
        self.with_store(move |store| store.update_config(&bucket, |config| config.lifecycle.clear())).await?;
        Ok(S3Response::with_status(DeleteBucketLifecycleOutput::default(), StatusCode::NO_CONTENT))
    }

    async fn put_bucket_notification_configuration(
        &self,
        request: S3Request<PutBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
        let input = request.input;
        let rules = dto::notifications_from(input.notification_configuration)?;
        self.with_store(move |store| store.update_config(&input.bucket, |config| config.notifications = rules)).await?;
        Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
    }

    async fn get_bucket_notification_configuration(
        &self,
        request: S3Request<GetBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
        let rules = self.with_store(move |store| store.config(&request.input.bucket)).await?.notifications;
        let configuration = dto::notifications_to(rules);
        Ok(S3Response::new(GetBucketNotificationConfigurationOutput {
            event_bridge_configuration: configuration.event_bridge_configuration,
            lambda_function_configurations: configuration.lambda_function_configurations,
            queue_configurations: configuration.queue_configurations,
            topic_configurations: configuration.topic_configurations,
        }))
    }
}

/// How many requests each operation had.
#[derive(Clone, Default)]
pub(crate) struct Counters(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counters {
    pub(crate) fn count(&self, operation: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(operation.to_owned()).or_default() += 1;
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Lets in whoever holds a known key, and counts.
pub(crate) struct Gate(pub(crate) Counters);

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        self.0.count(context.s3_op().name());
        match context.credentials() {
            Some(_) => Ok(()),
            None => Err(s3_error!(AccessDenied, "Access Denied")),
        }
    }
}

/// `<bucket>.localhost` and `<bucket>.s3.localhost`, with any port, name a bucket; any other host is path-style.
pub(crate) struct LocalHost;

pub(crate) fn bucket_of_host(host: &str) -> Option<&str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let bucket = name.strip_suffix(".localhost")?;
    let bucket = bucket.strip_suffix(".s3").unwrap_or(bucket);
    (bucket != "s3").then_some(bucket)
}

impl S3Host for LocalHost {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match bucket_of_host(host) {
            Some(bucket) => parsed.with_bucket(bucket),
            None => parsed,
        })
    }
}

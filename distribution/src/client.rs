//! A repository, as a registry or a mirror serves it (distribution specification, "Pull").

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Response, StatusCode, Url};

use super::answer::{Attempt, Patience, Question};
use super::authorization::Authorization;
use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::transport::{TimeLimits, Transport};
use image::digest::Digest;
use image::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, MAX_MANIFEST_BYTES, OCI_INDEX, OCI_MANIFEST,
};

/// The digest that a registry says a manifest has.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A repository at one endpoint.
#[derive(Debug)]
pub(super) struct Repository {
    endpoint: Endpoint,
    /// Its path; empty to ask for access only.
    path: String,
    transport: Transport,
    limits: TimeLimits,
    authorization: Authorization,
}

/// A manifest or an index as it came.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) media_type: Option<String>,
}

/// The bytes of a blob from some offset on.
#[derive(Debug)]
pub(super) struct BlobBody {
    response: Response,
    /// Bytes at the beginning that nobody asked for: the registry does not know ranges.
    surplus: u64,
}

impl Repository {
    /// The repository `path` at an endpoint.
    pub(super) fn new(
        endpoint: Endpoint,
        path: &str,
        transport: Transport,
        limits: TimeLimits,
        credentials: Credentials,
    ) -> Repository {
        Repository {
            endpoint,
            path: path.to_owned(),
            transport,
            limits,
            authorization: Authorization::new(credentials),
        }
    }

    /// Host and port, for errors.
    pub(super) fn registry(&self) -> &str {
        &self.endpoint.name
    }

    /// How long is waited for what.
    pub(super) fn limits(&self) -> &TimeLimits {
        &self.limits
    }

    /// Asks whether the registry accepts the credentials.
    pub(super) async fn check_access(&self) -> Result<(), RegistryError> {
        let mut patience = Patience::new(&self.limits);
        loop {
            match self.get(&self.endpoint.url(""), &[], "the interface").await {
                Ok(_) => return Ok(()),
                Err(attempt) => patience.wait(attempt).await?,
            }
        }
    }

    /// The manifest or index of a tag or a digest. If a digest is expected, it is the content's.
    pub(super) async fn manifest(
        &self,
        version: &str,
        expected: Option<&Digest>,
    ) -> Result<Fetched, RegistryError> {
        let mut patience = Patience::new(&self.limits);
        loop {
            match self.try_manifest(version, expected).await {
                Ok(fetched) => return Ok(fetched),
                Err(attempt) => patience.wait(attempt).await?,
            }
        }
    }

    async fn try_manifest(
        &self,
        version: &str,
        expected: Option<&Digest>,
    ) -> Result<Fetched, Attempt> {
        let separator = if expected.is_some() { '@' } else { ':' };
        let what = format!("{}{separator}{version}", self.path);
        let url = self
            .endpoint
            .url(&format!("{}/manifests/{version}", self.path));
        let accept = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let accept = HeaderValue::from_str(&accept)
            .map_err(|_| self.question(&what).protocol("media types"))?;
        let response = self.get(&url, &[(ACCEPT, accept)], &what).await?;
        let text = |name: &str| {
            let value = response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        // What follows a semicolon are parameters.
        let media_type = text(CONTENT_TYPE.as_str());
        let media_type = media_type.and_then(|media_type| {
            media_type
                .split(';')
                .next()
                .map(|kind| kind.trim().to_owned())
        });
        let said = text(CONTENT_DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let bytes = self
            .question(&what)
            .read(response, MAX_MANIFEST_BYTES)
            .await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = expected.copied().or(said)
            && expected != digest
        {
            return Err(Attempt::last(RegistryError::WrongDigest {
                registry: self.registry().to_owned(),
                expected,
                found: digest,
            }));
        }
        Ok(Fetched {
            bytes,
            digest,
            media_type,
        })
    }

    /// A blob from `offset` on, which is less than its size.
    pub(super) async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobBody, Attempt> {
        let what = format!("{}@{}", self.path, descriptor.digest);
        let url = self
            .endpoint
            .url(&format!("{}/blobs/{}", self.path, descriptor.digest));
        let range = HeaderValue::from_str(&format!("bytes={offset}-"))
            .map_err(|_| self.question(&what).protocol("range"))?;
        let headers = if offset == 0 {
            vec![]
        } else {
            vec![(RANGE, range)]
        };
        let response = self.get(&url, &headers, &what).await?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        if partial && !begins_at(&response, offset) {
            let error = self
                .question(&what)
                .protocol("it sent another part of a blob");
            return Err(error.into());
        }
        let begin = if partial { offset } else { 0 };
        let expected = descriptor.size.saturating_sub(begin);
        if let Some(length) = response.content_length()
            && length != expected
        {
            let what = format!("a blob has {length} bytes instead of {expected}");
            return Err(self.question("").protocol(what).into());
        }
        Ok(BlobBody {
            response,
            surplus: offset - begin,
        })
    }

    /// The next bytes of a blob; `None` at its end.
    pub(super) async fn next(&self, body: &mut BlobBody) -> Result<Option<bytes::Bytes>, Attempt> {
        loop {
            let next = body.response.chunk().await;
            let Some(mut bytes) = next.map_err(|error| self.question("").failed(error))? else {
                return Ok(None);
            };
            let skipped = body.surplus.min(bytes.len() as u64);
            body.surplus -= skipped;
            // Not more than the length.
            let rest = bytes.split_off(skipped as usize);
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
    }

    /// Asks once, and once more if the registry wants to be shown something else.
    async fn get(
        &self,
        url: &Url,
        headers: &[(reqwest::header::HeaderName, HeaderValue)],
        what: &str,
    ) -> Result<Response, Attempt> {
        let question = self.question(what);
        let mut ticket = self.authorization.current().await;
        let mut renewed = false;
        loop {
            let mut request = self.transport.following.get(url.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(header) = &ticket.header {
                request = request.header(AUTHORIZATION, header);
            }
            let response = request
                .send()
                .await
                .map_err(|error| question.failed(error))?;
            if response.status().is_success() {
                return Ok(response);
            }
            // Who was redirected to asks for nothing of ours.
            let own = response.url().origin() == url.origin();
            if response.status() != StatusCode::UNAUTHORIZED || renewed || !own {
                return Err(question.refused(response).await);
            }
            renewed = true;
            ticket = self
                .authorization
                .renew(
                    &ticket,
                    response.headers(),
                    &self.endpoint,
                    &self.transport,
                    question,
                )
                .await?;
        }
    }

    /// For errors about `what`.
    pub(super) fn question<'a>(&'a self, what: &'a str) -> Question<'a> {
        Question {
            registry: self.registry(),
            repository: &self.path,
            what,
            shown: self.authorization.shown(),
            limits: &self.limits,
        }
    }
}

/// Whether the part that came begins at `offset` (RFC 9110, section 14.4).
fn begins_at(response: &Response, offset: u64) -> bool {
    let range = response
        .headers()
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok());
    let first = range
        .and_then(|range| range.trim().strip_prefix("bytes "))
        .and_then(|range| range.split_once('-'));
    first.is_some_and(|(first, _)| first.parse() == Ok(offset))
}

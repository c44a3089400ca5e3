//! What an answer of a registry means, and whether it is worth to ask again.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::error::{Reason, RegistryError, Shown};
use super::transport::{Failure, TimeLimits};

/// Most bytes of an error's text that are read.
const MAX_ERROR: usize = 64 << 10;

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Why.
    pub(super) error: RegistryError,
    /// Whether another may succeed.
    pub(super) again: Again,
}

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// Never: the answer would be the same.
    Never,
    /// After a pause.
    Soon,
    /// After the pause that the registry asked for.
    After(Duration),
}

impl Attempt {
    /// One that is not worth to be repeated.
    pub(super) fn last(error: RegistryError) -> Attempt {
        Attempt {
            error,
            again: Again::Never,
        }
    }
}

impl From<RegistryError> for Attempt {
    fn from(error: RegistryError) -> Attempt {
        Attempt::last(error)
    }
}

/// Whom is asked for what, for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) registry: &'a str,
    pub(super) repository: &'a str,
    pub(super) what: &'a str,
    pub(super) shown: Shown,
    pub(super) limits: &'a TimeLimits,
}

impl Question<'_> {
    /// Why a request brought no answer.
    pub(super) fn failed(&self, error: reqwest::Error) -> Attempt {
        // An address may hold a signature that is as good as a password.
        let error = error.without_url();
        let registry = self.registry.to_owned();
        match Failure::of(&error) {
            Failure::Stalled => self.stalled(self.limits.stall),
            Failure::LeavesTls(host) => {
                Attempt::last(RegistryError::Unencrypted { registry, host })
            }
            failure => Attempt {
                error: RegistryError::Unreachable {
                    registry,
                    source: Reason::of(&error),
                },
                again: match failure {
                    Failure::Transient => Again::Soon,
                    _ => Again::Never,
                },
            },
        }
    }

    /// Nothing came for this long.
    pub(super) fn stalled(&self, limit: Duration) -> Attempt {
        Attempt {
            error: RegistryError::Stalled {
                registry: self.registry.to_owned(),
                seconds: limit.as_secs(),
            },
            again: Again::Soon,
        }
    }

    /// The answer is none of those that the protocol has.
    pub(super) fn protocol(&self, what: impl Into<String>) -> RegistryError {
        RegistryError::Protocol {
            registry: self.registry.to_owned(),
            what: what.into(),
        }
    }

    /// What a status means that is no success.
    pub(super) async fn refused(&self, response: Response) -> Attempt {
        let status = response.status();
        let (registry, repository) = (self.registry.to_owned(), self.repository.to_owned());
        let retry_after = retry_after(response.headers());
        match status {
            StatusCode::UNAUTHORIZED => Attempt::last(RegistryError::Unauthorized {
                registry,
                repository,
                shown: self.shown,
            }),
            StatusCode::FORBIDDEN => Attempt::last(RegistryError::Denied {
                registry,
                repository,
            }),
            StatusCode::NOT_FOUND => Attempt::last(RegistryError::NotFound {
                registry,
                what: self.what.to_owned(),
            }),
            StatusCode::TOO_MANY_REQUESTS => Attempt {
                error: RegistryError::TooManyRequests {
                    registry,
                    retry_after: retry_after.map(|pause| pause.as_secs()),
                },
                again: self.again(retry_after),
            },
            _ => {
                let again = match status.as_u16() {
                    408 | 500 | 502 | 503 | 504 => self.again(retry_after),
                    _ => Again::Never,
                };
                let code = self.code(response).await;
                let status = status.as_u16();
                Attempt {
                    error: RegistryError::Status {
                        registry,
                        status,
                        code,
                    },
                    again,
                }
            }
        }
    }

    /// The pause that was asked for, if it is one that we make.
    fn again(&self, retry_after: Option<Duration>) -> Again {
        match retry_after {
            None => Again::Soon,
            Some(pause) if pause <= self.limits.longest_pause => Again::After(pause),
            Some(_) => Again::Never,
        }
    }

    /// All of a small answer.
    pub(super) async fn read(&self, response: Response, limit: usize) -> Result<Vec<u8>, Attempt> {
        let reading = self.read_bounded(response, limit);
        match tokio::time::timeout(self.limits.document, reading).await {
            Ok(read) => read,
            Err(_) => Err(self.stalled(self.limits.document)),
        }
    }

    async fn read_bounded(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Attempt> {
        let too_large = || {
            let what = format!("{} has more than {limit} bytes", self.what);
            Attempt::last(self.protocol(what))
        };
        let mut bytes = Vec::new();
        if response
            .content_length()
            .is_some_and(|length| length > limit as u64)
        {
            return Err(too_large());
        }
        while let Some(part) = response.chunk().await.map_err(|error| self.failed(error))? {
            if part.len() > limit - bytes.len() {
                return Err(too_large());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }

    /// The code of an error. Its message is not used: a registry may write into it what it was sent.
    async fn code(&self, response: Response) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Code>,
        }
        #[derive(Deserialize)]
        struct Code {
            code: String,
        }
        let body = self.read(response, MAX_ERROR).await.unwrap_or_default();
        let errors = serde_json::from_slice::<Errors>(&body).ok();
        let code = errors.and_then(|errors| errors.errors.into_iter().next());
        let is_code = |code: &String| {
            code.len() <= 40
                && code
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        };
        code.map(|code| code.code)
            .filter(is_code)
            .unwrap_or_default()
    }
}

/// `Retry-After` in seconds (RFC 9110, section 10.2.3); registries send no dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Repeats attempts with pauses that grow.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    limits: &'a TimeLimits,
    failed: u32,
}

/// Attempts at one thing without any progress.
const ATTEMPTS: u32 = 5;

impl<'a> Patience<'a> {
    /// Nothing has failed yet.
    pub(super) fn new(limits: &'a TimeLimits) -> Patience<'a> {
        Patience { limits, failed: 0 }
    }

    /// Something came: what failed before does not count any more.
    pub(super) fn renew(&mut self) {
        self.failed = 0;
    }

    /// Waits until the next attempt.
    ///
    /// # Errors
    /// The failure, when there is to be none.
    pub(super) async fn wait(&mut self, attempt: Attempt) -> Result<(), RegistryError> {
        self.failed += 1;
        if self.failed >= ATTEMPTS {
            return Err(attempt.error);
        }
        let pause = match attempt.again {
            Again::Never => return Err(attempt.error),
            Again::Soon => self.pause(),
            Again::After(pause) => pause.max(self.pause()),
        };
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Doubled each time, and up to a half longer, so that clients that failed together do not come back together.
    fn pause(&self) -> Duration {
        let pause = self
            .limits
            .first_pause
            .saturating_mul(1 << (self.failed - 1).min(16));
        pause
            .min(self.limits.longest_pause)
            .mul_f64(1.0 + random() / 2.0)
    }
}

/// From 0 to 1.
fn random() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    // Its keys differ from each other.
    let number = RandomState::new().hash_one(0);
    f64::from((number >> 32) as u32) / f64::from(u32::MAX)
}

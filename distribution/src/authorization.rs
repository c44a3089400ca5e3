//! What is shown to a registry with each request (distribution project, "Token Authentication Specification" and "OAuth 2").

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::answer::{Attempt, Question};
use super::challenge::Challenge;
use super::credentials::Credentials;
use super::endpoint::{Endpoint, url_is_loopback};
use super::error::{RegistryError, Shown};
use super::secret::Secret;
use super::transport::Transport;

/// Most bytes of the answer of a server that gives out tokens.
const MAX_TOKEN: usize = 256 << 10;

/// What is shown to a registry. It becomes invalid after minutes, and is got anew then, once for all who wait.
#[derive(Debug)]
pub(super) struct Authorization {
    credentials: Credentials,
    current: Mutex<Ticket>,
}

/// What is sent as `Authorization`.
#[derive(Debug, Clone, Default)]
pub(super) struct Ticket {
    /// Nothing until the registry asks. Marked as sensitive, so that `Debug` does not show it.
    pub(super) header: Option<HeaderValue>,
    generation: u64,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Authorization {
    /// For whom these are the credentials.
    pub(super) fn new(credentials: Credentials) -> Authorization {
        Authorization {
            credentials,
            current: Mutex::default(),
        }
    }

    /// What is to be shown now.
    pub(super) async fn current(&self) -> Ticket {
        self.current.lock().await.clone()
    }

    /// What the credentials are, for errors.
    pub(super) fn shown(&self) -> Shown {
        match self.credentials {
            Credentials::Anonymous => Shown::Nothing,
            _ => Shown::Credentials,
        }
    }

    /// Gets something else to show than `refused`, as the registry's answer to it asks for.
    ///
    /// # Errors
    /// When there is nothing else, or the server that gives out tokens refuses.
    pub(super) async fn renew(
        &self,
        refused: &Ticket,
        headers: &HeaderMap,
        endpoint: &Endpoint,
        transport: &Transport,
        question: Question<'_>,
    ) -> Result<Ticket, Attempt> {
        let mut current = self.current.lock().await;
        if current.generation != refused.generation {
            // Somebody else did it meanwhile.
            return Ok(current.clone());
        }
        let texts = headers.get_all(WWW_AUTHENTICATE).iter();
        let mut header = match Challenge::find(texts.filter_map(|text| text.to_str().ok())) {
            None => return Err(self.nothing_else(question)),
            // The same would be refused again.
            Some(Challenge::Basic) if refused.header.is_some() => {
                return Err(self.nothing_else(question));
            }
            Some(Challenge::Basic) => self.basic(question)?,
            Some(Challenge::Bearer {
                realm,
                service,
                scope,
            }) => {
                let mut parameters = Vec::new();
                parameters.extend(service.map(|service| ("service", service)));
                let scopes = scope.unwrap_or_else(|| default_scope(question.repository));
                let scopes = scopes.split_ascii_whitespace();
                parameters.extend(scopes.map(|scope| ("scope", scope.to_owned())));
                let realm = self.realm(&realm, endpoint, question)?;
                let token = self.token(realm, &parameters, transport, question).await?;
                HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
                    .map_err(|_| question.protocol("its token cannot be sent"))?
            }
        };
        header.set_sensitive(true);
        current.header = Some(header);
        current.generation += 1;
        Ok(current.clone())
    }

    fn nothing_else(&self, question: Question<'_>) -> Attempt {
        Attempt::last(RegistryError::Unauthorized {
            registry: question.registry.to_owned(),
            repository: question.repository.to_owned(),
            shown: self.shown(),
        })
    }

    fn basic(&self, question: Question<'_>) -> Result<HeaderValue, Attempt> {
        let Credentials::Password { username, password } = &self.credentials else {
            return Err(self.nothing_else(question));
        };
        let pair = STANDARD.encode(format!("{username}:{}", password.reveal()));
        HeaderValue::from_str(&format!("Basic {pair}")).map_err(|_| self.nothing_else(question))
    }

    /// Where tokens are given out: with TLS, or on this machine, unless the user asked for less.
    fn realm(
        &self,
        realm: &str,
        endpoint: &Endpoint,
        question: Question<'_>,
    ) -> Result<Url, RegistryError> {
        let url = Url::parse(realm)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| question.protocol("it names no server that gives out tokens"))?;
        let plain = url.scheme() == "http";
        if plain && !endpoint.plain_asked() && !url_is_loopback(&url) {
            return Err(RegistryError::Unencrypted {
                registry: question.registry.to_owned(),
                host: url.host_str().unwrap_or_default().to_owned(),
            });
        }
        Ok(url)
    }

    async fn token(
        &self,
        mut realm: Url,
        parameters: &[(&str, String)],
        transport: &Transport,
        question: Question<'_>,
    ) -> Result<Secret, Attempt> {
        let pairs = parameters
            .iter()
            .map(|(name, value)| (*name, value.as_str()));
        let request: RequestBuilder = match &self.credentials {
            Credentials::IdentityToken(token) => {
                let form = form(pairs.chain([
                    ("grant_type", "refresh_token"),
                    ("client_id", "msb"),
                    ("refresh_token", token.reveal()),
                ]));
                let kind = "application/x-www-form-urlencoded";
                transport
                    .direct
                    .post(realm)
                    .header("Content-Type", kind)
                    .body(form)
            }
            Credentials::Password { username, password } => {
                realm.query_pairs_mut().extend_pairs(pairs);
                transport
                    .direct
                    .get(realm)
                    .basic_auth(username, Some(password.reveal()))
            }
            Credentials::Anonymous => {
                realm.query_pairs_mut().extend_pairs(pairs);
                transport.direct.get(realm)
            }
        };
        let response = request
            .send()
            .await
            .map_err(|error| question.failed(error))?;
        if !response.status().is_success() {
            return Err(question.refused(response).await);
        }
        let question = Question {
            what: "its token",
            ..question
        };
        let body = question.read(response, MAX_TOKEN).await?;
        // The parser's message may quote the token.
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| question.protocol("what it sent instead of a token is no JSON object"))?;
        let token = answer
            .token
            .filter(|token| !token.is_empty())
            .or(answer.access_token);
        token
            .filter(|token| !token.is_empty())
            .map(Secret::new)
            .ok_or_else(|| question.protocol("it gave out no token").into())
    }
}

/// What is asked for when the registry does not say.
fn default_scope(repository: &str) -> String {
    if repository.is_empty() {
        String::new()
    } else {
        format!("repository:{repository}:pull")
    }
}

/// Pairs as a form encodes them.
fn form<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    // A URL is what encodes queries the same way.
    let Ok(mut url) = Url::parse("http://form") else {
        return String::new();
    };
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

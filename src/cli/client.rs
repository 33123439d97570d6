//! Talks to the running farside: over its local socket, or over TCP with a credential. Must not know
//! what the answers mean.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use bus_schema::{PoolId, ResourceKey};
use console::ProblemBody;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Longest answer that is taken in at once; longer ones are streamed.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long farside may take to say that it lives, the connection included: one that is stopped, or whose
/// machine stands still, takes connections and answers none.
const ALIVE_WAIT: Duration = Duration::from_secs(10);
/// How long an answer may take to begin: more than farside itself allows the longest, so its own words come
/// first.
const ANSWER_WAIT: Duration = Duration::from_secs(630);

/// Farside asks nobody by which name it was called.
const HOST: &str = "farside";

type Sender = http1::SendRequest<Full<Bytes>>;

/// Where farside is, and who asks.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    to: To,
    credential: Option<String>,
    tenant: Option<String>,
}

#[derive(Clone, Debug)]
enum To {
    Socket(PathBuf),
    Tcp(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nothing is there.
    #[error("cannot reach farside at {at}: {why}; start it with 'farside up' or 'farside serve'")]
    Unreachable { at: String, why: String },
    /// Somebody listens, and says nothing.
    #[error(
        "farside at {at} does not answer within {} s: its process is stopped, or its machine is overloaded; look at both and at its log, then try again", .within.as_secs()
    )]
    Silent { at: String, within: Duration },
    /// The file's mode keeps the caller out.
    #[error(
        "may not open {at}: it belongs to the user that runs farside; become that user, or use --url with a token"
    )]
    Denied { at: String },
    /// The URL is not one.
    #[error("{url:?} is no address of farside: {why}")]
    Address { url: String, why: &'static str },
    /// The connection broke.
    #[error("the connection to farside at {at} broke: {source}; look at its log, then try again")]
    Broken { at: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// Farside refused; its own words say what to do.
    #[error("{}", .0.detail)]
    Problem(ProblemBody),
    /// Farside at a TCP address knows nobody without a credential.
    #[error(
        "farside at {at} wants a credential: put the operator token (the file operator.token of its data directory) or an access key (<key id>.<secret>) into FARSIDE_TOKEN"
    )]
    NoCredential { at: String },
    /// It does not take the one it got.
    #[error("farside at {at} does not take what is in FARSIDE_TOKEN: {detail}")]
    Refused { at: String, detail: String },
    /// The answer is not what this build expects.
    #[error("the answer of farside at {at} cannot be read: {source}; is it of another version?")]
    Malformed { at: String, source: serde_json::Error },
    /// What came could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

impl Client {
    /// Over the local socket: whoever may open the file is an operator.
    pub(crate) fn socket(path: &Path) -> Self {
        Self { to: To::Socket(path.to_owned()), credential: None, tenant: None }
    }

    /// Over TCP, with a credential and, for a level-2 tenant, its name.
    pub(crate) fn tcp(
        url: &str,
        credential: Option<String>,
        tenant: Option<String>,
    ) -> Result<Self, ClientError> {
        let wrong = |why| ClientError::Address { url: url.to_owned(), why };
        if url.starts_with("https://") {
            return Err(wrong(
                "this build speaks no TLS; tunnel to the machine and write http://127.0.0.1:PORT",
            ));
        }
        let rest = url.strip_prefix("http://").ok_or_else(|| wrong("write http://host:port"))?;
        let address = rest.trim_end_matches('/');
        let is_whole = |(host, port): (&str, &str)| !host.is_empty() && port.parse::<u16>().is_ok();
        if !address.rsplit_once(':').is_some_and(is_whole) {
            return Err(wrong("write http://host:port; farside prints its own when it starts"));
        }
        Ok(Self { to: To::Tcp(address.to_owned()), credential, tenant })
    }

    fn at(&self) -> String {
        match &self.to {
            To::Socket(path) => path.display().to_string(),
            To::Tcp(address) => format!("http://{address}"),
        }
    }

    /// Asks.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        self.read(response).await
    }

    /// Acts.
    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|source| ClientError::Malformed { at: self.at(), source })?;
        let response = self.send(Method::POST, path, Some(body)).await?;
        self.read(response).await
    }

    /// Acts with a body that is there already.
    pub(crate) async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, Some(body)).await?;
        self.read(response).await
    }

    /// Takes away.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::DELETE, path, None).await?;
        self.read(response).await
    }

    /// Asks, and hands on what comes as it comes.
    pub(crate) async fn copy(&self, path: &str, to: &mut dyn Write) -> Result<(), ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        self.each_piece(response, |piece| Ok(to.write_all(&piece)?)).await
    }

    /// Asks, and hands on each JSON line of the answer as it comes.
    pub(crate) async fn get_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        line: impl FnMut(T) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        self.each_line(response, line).await
    }

    /// Acts, and hands on each JSON line of the answer as it comes.
    pub(crate) async fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        line: impl FnMut(T) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let response = self.send(Method::POST, path, Some(vec![])).await?;
        self.each_line(response, line).await
    }

    async fn each_line<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
        mut line: impl FnMut(T) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut rest = vec![];
        let at = self.at();
        self.each_piece(response, |piece| {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = rest.drain(..=end).collect();
                let read = serde_json::from_slice(&text);
                line(read.map_err(|source| ClientError::Malformed { at: at.clone(), source })?)?;
            }
            Ok(())
        })
        .await
    }

    async fn each_piece(
        &self,
        response: Response<Incoming>,
        mut piece: impl FnMut(Bytes) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut body = self.accepted(response).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.broken(e))?;
            if let Ok(data) = frame.into_data() {
                piece(data)?;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, HOST);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(credential) = &self.credential {
            request = request.header(header::AUTHORIZATION, format!("Bearer {credential}"));
        }
        if let Some(tenant) = &self.tenant {
            request = request.header("farside-tenant", tenant);
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.body(body).map_err(|e| self.broken(e))?;
        let mut sender = self.within(ALIVE_WAIT, self.alive()).await?;
        let sent = async { sender.send_request(request).await.map_err(|e| self.broken(e)) };
        self.within(ANSWER_WAIT, sent).await
    }

    /// A connection to a farside that lives: the question itself may rightly take minutes.
    async fn alive(&self) -> Result<Sender, ClientError> {
        let mut sender = match &self.to {
            To::Socket(path) => self.over(UnixStream::connect(path).await).await?,
            To::Tcp(address) => self.over(TcpStream::connect(address).await).await?,
        };
        let asks = Request::get("/healthz").header(header::HOST, HOST).body(Full::default());
        let answer = sender.send_request(asks.map_err(|e| self.broken(e))?).await;
        // Read to its end, so that the connection can be asked again.
        self.whole(answer.map_err(|e| self.broken(e))?).await?;
        sender.ready().await.map_err(|e| self.broken(e))?;
        Ok(sender)
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        connected: io::Result<S>,
    ) -> Result<Sender, ClientError> {
        let stream = connected.map_err(|error| self.unreachable(&error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(e))?;
        // It ends when the answer's body has been read or dropped; its errors show there.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let silent = ClientError::Silent { at: self.at(), within: limit };
        timeout(limit, answer).await.unwrap_or(Err(silent))
    }

    async fn accepted(&self, response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = self.whole(response).await?;
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| ProblemBody {
            kind: "about:blank".to_owned(),
            title: status.to_string(),
            status: status.as_u16(),
            detail: format!("farside at {} answered {status} without saying why", self.at()),
        });
        match self.credential {
            None if status == StatusCode::UNAUTHORIZED => Err(ClientError::NoCredential { at: self.at() }),
            Some(_) if status == StatusCode::UNAUTHORIZED => {
                Err(ClientError::Refused { at: self.at(), detail: problem.detail })
            }
            _ => Err(ClientError::Problem(problem)),
        }
    }

    async fn read<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let response = self.accepted(response).await?;
        let body = self.whole(response).await?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Malformed { at: self.at(), source })
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let whole = body.collect().await;
        whole
            .map(http_body_util::Collected::to_bytes)
            .map_err(|source| ClientError::Broken { at: self.at(), source })
    }

    fn unreachable(&self, error: &io::Error) -> ClientError {
        let at = self.at();
        let why = match error.kind() {
            io::ErrorKind::PermissionDenied => return ClientError::Denied { at },
            io::ErrorKind::NotFound => "no such file".to_owned(),
            io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
            _ => error.to_string(),
        };
        ClientError::Unreachable { at, why }
    }

    fn broken(&self, source: impl std::error::Error + Send + Sync + 'static) -> ClientError {
        ClientError::Broken { at: self.at(), source: Box::new(source) }
    }
}

/// `/v1/pools/<site>/<cluster>/<rest>`
pub(crate) fn pool_path(pool: &PoolId, rest: &str) -> String {
    format!("/v1/pools/{}/{}/{rest}", pool.site, pool.cluster)
}

/// `<what>/<kind>/<id>`, encoded for a path.
pub(crate) fn key_path(what: &str, key: &ResourceKey) -> String {
    format!("{what}/{}/{}", encoded(key.kind(), false), encoded(key.id(), true))
}

/// A query of what is there, encoded; starts with `?` unless it is empty.
pub(crate) fn query(pairs: &[(&str, Option<String>)]) -> String {
    let there = pairs.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let text: Vec<_> = there.map(|(name, value)| format!("{name}={}", encoded(value, false))).collect();
    if text.is_empty() { String::new() } else { format!("?{}", text.join("&")) }
}

/// Percent-encodes everything but unreserved characters (RFC 3986, section 2.3).
fn encoded(text: &str, keep_slash: bool) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep_slash && byte == b'/' {
            encoded.push(char::from(byte));
        } else {
            use std::fmt::Write;
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        let key = "Pod/a b/ü?x".parse().unwrap();
        assert_eq!(key_path("resources", &key), "resources/Pod/a%20b/%C3%BC%3Fx");
        assert_eq!(query(&[("a", Some("x&y".to_owned())), ("b", None)]), "?a=x%26y");
        assert_eq!(query(&[("b", None)]), "");
    }

    #[test]
    fn an_address_without_http_is_refused_with_what_to_write() {
        assert!(Client::tcp("127.0.0.1:1", None, None).unwrap_err().to_string().contains("http://host:port"));
        assert!(Client::tcp("http://127.0.0.1", None, None).unwrap_err().to_string().contains("host:port"));
        assert!(Client::tcp("http://[::1]:1/", None, None).is_ok());
        assert!(Client::tcp("https://x:1", None, None).unwrap_err().to_string().contains("no TLS"));
    }
}

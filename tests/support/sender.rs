//! A sender of webhooks to a relay: down to the bytes, since no client library would misbehave to
//! order.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncBufReadExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::within;

/// The relay's answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// A connection to a relay's door.
#[derive(Debug)]
pub struct Line<S = TcpStream>(BufReader<S>);

impl Answer {
    /// The first header of this name (given in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the answer is JSON")
    }

    /// The problem's detail; the answer is as RFC 9457 has it.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(problem["title"].is_string(), "{problem}");
        problem["detail"].as_str().expect("it says what is wrong").to_owned()
    }

    /// The id that the event has downstream.
    pub fn id(&self) -> String {
        self.json()["id"].as_str().expect("it has an id").to_owned()
    }
}

impl Line {
    pub async fn to(address: SocketAddr) -> std::io::Result<Self> {
        Self::from(Ipv4Addr::LOCALHOST, address).await
    }

    /// From another address of the loopback, which is another sender to the door.
    pub async fn from(here: Ipv4Addr, address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((here, 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends these bytes and nothing else.
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref()).await?;
        self.0.get_mut().flush().await
    }

    /// Shuts its half: it has said everything, and listens.
    pub async fn say_no_more(&mut self) -> std::io::Result<()> {
        self.0.get_mut().shutdown().await
    }

    /// Reads one answer.
    #[track_caller]
    pub fn hear(&mut self) -> impl Future<Output = std::io::Result<Answer>> + '_ {
        within("an answer", self.read())
    }

    async fn read(&mut self) -> std::io::Result<Answer> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines[0].split(' ').nth(1).and_then(|status| status.parse().ok());
        let headers: Vec<(String, String)> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().expect("a length"))];
        self.0.read_exact(&mut body).await?;
        Ok(Answer { status: status.expect("a status"), headers, body })
    }

    /// Waits until the other side hangs up.
    #[track_caller]
    pub fn ended(&mut self) -> impl Future<Output = ()> + '_ {
        within("the connection to end", async {
            let mut rest = Vec::new();
            // a reset is an end as well
            drop(self.0.read_to_end(&mut rest).await);
        })
    }

    /// Sends a webhook as it should be, and hears what is answered.
    pub async fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> std::io::Result<Answer> {
        let body = body.as_ref();
        let mut request = format!("POST {path} HTTP/1.1\r\nhost: door\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            request += "content-type: application/json\r\n";
        }
        request += &format!("content-length: {}\r\n\r\n", body.len());
        self.say([request.as_bytes(), body].concat()).await?;
        self.hear().await
    }

    /// A webhook of the source `shop`, under this id.
    pub async fn shop(&mut self, id: &str, body: impl AsRef<[u8]>) -> std::io::Result<Answer> {
        let headers = [("authorization", "Bearer s3cret"), ("idempotency-key", id)];
        self.post("/in/shop", &headers, body).await
    }
}

/// A webhook over a connection of its own.
pub async fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    let mut line = Line::to(address).await.expect("connect to the door");
    line.post(path, headers, body).await.expect("an answer")
}

//! Where the local endpoint listens: on loopback, or at a Unix socket whose mode says who may ask.

use flotilla_protocol::ErrorCode;
use serde::Deserialize;
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::either::Either;

/// Before the path of a socket.
const UNIX: &str = "unix:";
/// Longest path of a socket (unix(7): `sun_path` has 108 bytes, the last one zero).
const SOCKET_PATH: usize = 107;

/// A connection of either kind.
pub type Stream = Either<TcpStream, UnixStream>;

/// An address of the local endpoint: `127.0.0.1:8080`, `[::1]:8080` or `unix:/run/flotilla/agent.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// A loopback address; port 0 takes any free one.
    Tcp(SocketAddr),
    /// An absolute path.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            let path = PathBuf::from(path);
            if !path.is_absolute() || path.as_os_str().len() > SOCKET_PATH {
                return Err(format!(
                    "listen = {text:?}: a socket has an absolute path of {SOCKET_PATH} bytes at most"
                ));
            }
            return Ok(Address::Unix(path));
        }
        let address: SocketAddr =
            text.parse().map_err(|_| format!("listen is {text:?}, neither IP:PORT nor unix:/PATH"))?;
        if !address.ip().is_loopback() {
            return Err(format!("listen is {address}, but the local endpoint is for loopback only"));
        }
        Ok(Address::Tcp(address))
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Address {
    /// The value of a Host header for it.
    pub fn host(&self) -> String {
        match self {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Connects to it.
    pub async fn connect(&self) -> io::Result<Stream> {
        match self {
            Address::Tcp(address) => TcpStream::connect(address).await.map(Either::Left),
            Address::Unix(path) => UnixStream::connect(path).await.map(Either::Right),
        }
    }
}

/// Why the endpoint cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is reachable from elsewhere.
    #[error("the local endpoint listens on loopback only (127.0.0.1 or [::1]), not on {0}")]
    NotLoopback(SocketAddr),
    /// Another program has the address.
    #[error("the address {0} is in use; choose another one")]
    InUse(Address),
    /// Something else lies where the socket is to be.
    #[error("{path} is no socket; choose another path, or remove it", path = .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("the local endpoint cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: Address,
        /// Why.
        source: io::Error,
    },
}

impl ApiError {
    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        match self {
            ApiError::NotLoopback(_) | ApiError::NotASocket(_) => ErrorCode::InvalidInput,
            ApiError::InUse(_) => ErrorCode::PortInUse,
            ApiError::Listen { .. } => ErrorCode::Network,
        }
    }
}

/// A listening endpoint. A socket is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: Address,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Where it listens; a free port was chosen by now.
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match &self.kind {
            // Answers are small and complete: waiting to fill a packet only adds latency.
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "local endpoint: nodelay is not available");
                }
                Ok(Either::Left(stream))
            }
            Kind::Unix(listener) => listener.accept().await.map(|(stream, _)| Either::Right(stream)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // A later agent may be there already only if it took this one for dead; its socket is another file then.
            let _ = fs::remove_file(path);
        }
    }
}

/// Listens. A socket gets this mode.
pub async fn bind(address: &Address, mode: u32) -> Result<Listener, ApiError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ApiError::InUse(address.clone()),
        _ => ApiError::Listen { address: address.clone(), source },
    };
    match address {
        Address::Tcp(socket) if !socket.ip().is_loopback() => Err(ApiError::NotLoopback(*socket)),
        Address::Tcp(socket) => {
            let listener = TcpListener::bind(socket).await.map_err(failed)?;
            let address = Address::Tcp(listener.local_addr().map_err(failed)?);
            Ok(Listener { kind: Kind::Tcp(listener), address })
        }
        Address::Unix(path) => {
            clear(path)?;
            let listener = bind_socket(path, mode).map_err(failed)?;
            Ok(Listener { kind: Kind::Unix(listener), address: address.clone() })
        }
    }
}

/// Removes what a killed agent left behind.
fn clear(path: &Path) -> Result<(), ApiError> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(ApiError::NotASocket(path.to_owned()));
    }
    let address = Address::Unix(path.to_owned());
    if StdUnixStream::connect(path).is_ok() {
        return Err(ApiError::InUse(address));
    }
    fs::remove_file(path).map_err(|source| ApiError::Listen { address, source })
}

/// Nobody can connect before the mode is right: until then the socket has another name.
fn bind_socket(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push("~");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, Permissions::from_mode(mode))?;
    fs::rename(&beside, path)?;
    Ok(listener)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_what_they_are() {
        for good in ["127.0.0.1:0", "[::1]:80", "unix:/run/a.sock"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        let long = format!("unix:/{}", "x".repeat(SOCKET_PATH));
        for (bad, word) in [
            ("0.0.0.0:80", "loopback"),
            ("localhost", "neither"),
            ("unix:a.sock", "absolute"),
            (long.as_str(), "at most"),
            ("", "neither"),
        ] {
            assert!(bad.parse::<Address>().unwrap_err().contains(word), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_is_taken_over_from_a_dead_agent_and_goes_with_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let address = Address::Unix(path.clone());
        let listener = bind(&address, 0o660).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(bind(&address, 0o600).await, Err(ApiError::InUse(_))), "somebody listens");
        drop(listener);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "what a killed agent leaves");
        drop(bind(&address, 0o600).await.unwrap());
        fs::write(&path, "mine").unwrap();
        let error = bind(&address, 0o600).await.unwrap_err();
        assert!(matches!(error, ApiError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}

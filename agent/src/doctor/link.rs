//! Goes the way to the control plane step by step, to say at which one it ends.

use super::facts::{Link, NotSafe};
use crate::clock::Clock;
use crate::folder::Folder;
use crate::identity::{self, Names, split_address};
use bytes::BytesMut;
use flotilla_device::renewal::Pair;
use rumqttc::{ConnAck, Connect, ConnectReturnCode, Disconnect, Packet};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Time for each step.
const STEP: Duration = Duration::from_secs(10);
/// With TLS 1.3 a server refuses a client's certificate after the handshake: so long its word is awaited.
const SECOND_THOUGHTS: Duration = Duration::from_millis(500);
const PACKET: usize = 4096;

/// Tries the way out. `ask` says whether the broker may be asked to accept the device, which would end the
/// connection of an agent that runs.
pub(super) async fn try_out(folder: &Folder, names: &Names, proof_ms: u64, ask: bool) -> Link {
    let address = names.mqtt.clone();
    let Some((host, port)) = split_address(&names.mqtt) else {
        return Link::Unresolved { problem: "it is not HOST:PORT".to_owned(), address };
    };
    let resolved = within(tokio::net::lookup_host((host, port))).await;
    let targets: Vec<_> = match resolved {
        Ok(found) => found.collect(),
        Err(e) => return Link::Unresolved { problem: e.to_string(), address },
    };
    let mut problem = "the name has no address".to_owned();
    let mut stream = None;
    for target in &targets {
        match within(TcpStream::connect(target)).await {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(e) => problem = e.to_string(),
        }
    }
    let Some(stream) = stream else {
        return if targets.is_empty() {
            Link::Unresolved { address, problem }
        } else {
            Link::Unreachable { address, problem }
        };
    };
    // A key or certificate that cannot be used has a finding of its own.
    let Ok(identity) = identity::read(folder, &Clock::new(proof_ms)) else { return Link::NotTried };
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        let problem = format!("{host} is neither a host name nor an address");
        return Link::NotSafe { address, cause: NotSafe::Name, problem };
    };
    let connector = TlsConnector::from(identity.tls(Pair::Present));
    let mut stream = match within(connector.connect(name, stream)).await {
        Ok(stream) => stream,
        Err(e) => return Link::NotSafe { cause: cause(&e), problem: e.to_string(), address },
    };
    let said = if ask { hello(&mut stream, names).await } else { listen(&mut stream).await };
    match said {
        Ok(Some(ConnectReturnCode::Success)) | Ok(None) if !ask => Link::Open { address, asked: false },
        Ok(Some(ConnectReturnCode::Success)) => Link::Open { address, asked: true },
        Ok(Some(refusal)) => Link::Refused { problem: format!("{refusal:?}"), address },
        Ok(None) => Link::Silent { address },
        Err(e) if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            Link::NotSafe { cause: cause(&e), problem: e.to_string(), address }
        }
        Err(e) => Link::Refused { problem: format!("the connection was ended: {e}"), address },
    }
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", STEP.as_secs()));
    tokio::time::timeout(STEP, step).await.unwrap_or_else(|_| Err(late()))
}

/// Whether the server refuses the certificate after all.
async fn listen(stream: &mut TlsStream<TcpStream>) -> io::Result<Option<ConnectReturnCode>> {
    let mut byte = [0];
    match tokio::time::timeout(SECOND_THOUGHTS, stream.read(&mut byte)).await {
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Err(e)) => Err(e),
        Ok(Ok(_)) | Err(_) => Ok(None),
    }
}

/// Asks the broker for a session and ends it at once; nothing is subscribed or said.
async fn hello(stream: &mut TlsStream<TcpStream>, names: &Names) -> io::Result<Option<ConnectReturnCode>> {
    let mut out = BytesMut::new();
    let mut connect = Connect::new(names.device.as_str());
    connect.clean_session = true;
    connect.write(&mut out).map_err(io::Error::other)?;
    // Where this fails, the server may have said why before it went: reading tells.
    let _ = stream.write_all(&out).await;
    let _ = stream.flush().await;
    let mut incoming = BytesMut::new();
    let answer = async {
        loop {
            match Packet::read(&mut incoming, PACKET) {
                Ok(Packet::ConnAck(ConnAck { code, .. })) => return Ok(Some(code)),
                Ok(_) => return Err(io::Error::other("the server does not speak MQTT as it should")),
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(e) => return Err(io::Error::other(e)),
            }
            if stream.read_buf(&mut incoming).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    let code = match tokio::time::timeout(STEP, answer).await {
        Ok(code) => code?,
        Err(_) => return Ok(None),
    };
    let mut bye = BytesMut::new();
    if Disconnect.write(&mut bye).is_ok() {
        // The broker is told as a courtesy; the end of the connection tells it as well.
        let _ = stream.write_all(&bye).await;
        let _ = stream.shutdown().await;
    }
    Ok(code)
}

fn cause(error: &io::Error) -> NotSafe {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return NotSafe::Other;
    };
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => NotSafe::OtherCa,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => NotSafe::Time,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                NotSafe::Name
            }
            _ => NotSafe::Other,
        },
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            | AlertDescription::DecryptError,
        ) => NotSafe::Certificate,
        _ => NotSafe::Other,
    }
}

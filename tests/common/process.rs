//! The service as a process of its own, which can be killed, and an operator who steers it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use apical::engine::{Clock, HostClock};
use apical::proto::v1;
use apical::proto::v1::session_service_client::SessionServiceClient;
use apical::sample::RoiSet;
use apical::service::upload_of;
use tonic::transport::Channel;

/// A running `apical serve`.
pub struct Process {
    child: Child,
    listen: String,
}

impl Process {
    /// Starts it, with a session that goes on where one is named.
    pub fn start(rig: &Path, continued: Option<&Path>) -> Self {
        Self::start_with(rig, continued, &[])
    }

    /// The same in an environment.
    pub fn start_with(rig: &Path, continued: Option<&Path>, environment: &[(&str, &Path)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apical"));
        command.args(["serve", "--json", "--config"]).arg(rig);
        if let Some(directory) = continued {
            command.arg("--continue").arg(directory);
        }
        environment.iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        let mut text = String::new();
        let started_ns = HostClock.now_ns();
        while serde_json::from_str::<serde_json::Value>(&text).is_err() {
            if out.read_line(&mut text).expect("text") == 0 {
                let output = child.wait_with_output().expect("its end");
                panic!("it does not serve: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let took_ns = HostClock.now_ns() - started_ns;
        assert!(took_ns < 5_000_000_000, "a session goes on within five seconds, and not {took_ns} ns");
        let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        Self { child, listen: format!("http://{}", said["listen"].as_str().expect("an address")) }
    }

    /// A connection to it.
    pub async fn channel(&self) -> Channel {
        Channel::from_shared(self.listen.clone()).expect("a URL").connect().await.expect("it answers")
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }
}

impl Drop for Process {
    /// A test that fails leaves no service behind.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An operator who steers one process.
pub struct Operator {
    pub control: SessionServiceClient<Channel>,
    commands: u64,
}

impl Operator {
    /// On a connection.
    pub fn new(channel: Channel) -> Self {
        Self { control: SessionServiceClient::new(channel), commands: 0 }
    }

    /// A command's header with a key of its own.
    pub fn header(&mut self) -> Option<v1::CommandHeader> {
        self.commands += 1;
        let idempotency_key = format!("key-{}", self.commands);
        Some(v1::CommandHeader { idempotency_key, operator_name: "tester".to_owned() })
    }

    /// Creates the session "session" with these ROIs.
    pub async fn create(&mut self, rois: &RoiSet) {
        let q = v1::CreateSessionRequest { command: self.header(), name: "session".to_owned(), ..Default::default() };
        self.control.create_session(q).await.expect("created");
        let command = self.header().expect("a header");
        self.control.upload_rois(upload_of(rois, command)).await.expect("uploaded");
    }

    /// Brings the session as far as it goes: a calibration and the task, or the baseline that they need.
    pub async fn nudge(&mut self) {
        let command = self.header();
        if self.control.calibrate(v1::CalibrateRequest { command }).await.is_ok() {
            let command = self.header();
            let _ = self.control.start_task(v1::StartTaskRequest { command, accept_template: true }).await;
            return;
        }
        let command = self.header();
        let _ = self.control.start_baseline(v1::StartBaselineRequest { command }).await;
    }

    /// Gives a reward, if that is allowed.
    pub async fn reward(&mut self) {
        let command = self.header();
        let _ = self.control.manual_reward(v1::ManualRewardRequest { command }).await;
    }

    /// Stops the session; its directory. A long one, whose report takes its time, is asked for again.
    pub async fn stop(&mut self) -> PathBuf {
        let command = self.header();
        for _ in 0..20 {
            match self.control.stop(v1::StopRequest { command: command.clone() }).await {
                Ok(stopped) => return PathBuf::from(stopped.into_inner().directory),
                Err(status) => assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}"),
            }
        }
        panic!("the session does not end")
    }
}

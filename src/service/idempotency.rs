//! Answers by idempotency key: a command that is sent again is answered again, not done again.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use prost::Message;
use tonic::Status;

use crate::proto::v1::{CommandEffect, CommandHeader};

/// Answers that are remembered; the oldest go first.
const REMEMBERED: usize = 4_096;
/// Bytes that a key or an operator's name may have.
const TEXT_MAX: usize = 128;

/// The command's key and operator, checked.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub key: String,
    pub operator: String,
}

impl Caller {
    /// Checks a command's header.
    pub fn of(header: Option<&CommandHeader>) -> Result<Self, Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("command: missing, expected a CommandHeader"))?;
        for (name, text) in [("idempotency_key", &header.idempotency_key), ("operator_name", &header.operator_name)] {
            if text.is_empty() || text.len() > TEXT_MAX {
                let got = text.len();
                return Err(Status::invalid_argument(format!("command.{name}: {got} bytes, expected 1 to {TEXT_MAX}")));
            }
        }
        Ok(Self { key: header.idempotency_key.clone(), operator: header.operator_name.clone() })
    }
}

/// An answer that can say that it is a repetition.
pub(super) trait Answer: Message + Clone + Send + Sync + 'static {
    /// Where it says so.
    fn effect_mut(&mut self) -> &mut Option<CommandEffect>;
}

/// What a command is, whole: the same key with another one is a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity(Vec<u8>);

impl Identity {
    /// Of a request. The name of the message goes in with its bytes: two commands may have the same bytes.
    pub fn of<Q: Message>(request: &Q) -> Self {
        let mut identity = std::any::type_name::<Q>().as_bytes().to_vec();
        identity.extend(request.encode_to_vec());
        Self(identity)
    }
}

/// A request that is a command.
pub(super) trait Asked: Message + Send + Sync + 'static {
    /// What it is answered with.
    type Answer: Answer;
    /// Who asks.
    fn header(&self) -> Option<&CommandHeader>;
}

type Kept = (Identity, Arc<dyn Any + Send + Sync>);

#[derive(Default)]
struct Book {
    answers: HashMap<String, Kept>,
    order: VecDeque<String>,
    under_way: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

/// The answers given so far.
#[derive(Default)]
pub(super) struct AnswerBook {
    book: Mutex<Book>,
}

impl AnswerBook {
    /// Answers from the book where `key` is there for the same request; otherwise does it, once at a time, and
    /// remembers the answer if it is one. A refusal is not remembered: the same command may succeed later.
    ///
    /// Not to be dropped half-way: a command that took effect while nobody waits must still be remembered.
    pub async fn answer<A, F>(&self, key: &str, asked: Identity, act: F) -> Result<A, Status>
    where
        A: Answer,
        F: Future<Output = Result<A, Status>>,
    {
        let gate = Arc::clone(self.lock()?.under_way.entry(key.to_owned()).or_default());
        let answer = {
            let _turn = gate.lock().await;
            self.answer_in_turn(key, asked, act).await
        };
        let mut book = self.lock()?;
        // The book's and ours: nobody else waits for a turn.
        if Arc::strong_count(&gate) == 2 {
            book.under_way.remove(key);
        }
        answer
    }

    async fn answer_in_turn<A, F>(&self, key: &str, asked: Identity, act: F) -> Result<A, Status>
    where
        A: Answer,
        F: Future<Output = Result<A, Status>>,
    {
        let kept = self.lock()?.answers.get(key).cloned();
        if let Some((earlier, answer)) = kept {
            let same = earlier == asked;
            return match answer.downcast_ref::<A>() {
                Some(answer) if same => {
                    let mut answer = answer.clone();
                    if let Some(effect) = answer.effect_mut() {
                        effect.repeated = true;
                    }
                    Ok(answer)
                }
                _ => Err(Status::already_exists(format!("idempotency_key {key:?} was used for another command"))),
            };
        }
        let answer = act.await?;
        let mut book = self.lock()?;
        book.answers.insert(key.to_owned(), (asked, Arc::new(answer.clone())));
        book.order.push_back(key.to_owned());
        if book.order.len() > REMEMBERED
            && let Some(oldest) = book.order.pop_front()
        {
            book.answers.remove(&oldest);
        }
        Ok(answer)
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Book>, Status> {
        self.book.lock().map_err(|_| Status::internal("the book of answers is broken: a thread panicked"))
    }
}

//! What nodes do, with types: one method each.

use crate::answer::{ContainerAnswer, GetAnswer, InfoAnswer, ListAnswer, WriteAnswer};
use crate::call::{Call, CallBody, CallError, NodeClient};
use crate::http_client::Timeouts;
use crate::put_stream::{HashedPut, PIECES_MAX, PutStream};
use bytes::Bytes;
use http::{Method, StatusCode};
use onggi_object_model::{AccountEntry, AccountInfo, ContainerInfo, ObjectEntry, ObjectRecord};
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::object::{Delete, Get, Post, Put, Release, Reserve};
use onggi_object_wire::{Place, Resource, account, container, rows};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Storage nodes, reached through some [`NodeClient`].
#[derive(Clone)]
pub struct Nodes {
    client: Arc<dyn NodeClient>,
    timeouts: Timeouts,
}

impl core::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Nodes")
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl Nodes {
    /// Calls through this client.
    #[must_use]
    pub fn new(client: Arc<dyn NodeClient>, timeouts: Timeouts) -> Self {
        Self { client, timeouts }
    }

    /// The client below, for messages between nodes.
    #[must_use]
    pub fn client(&self) -> &Arc<dyn NodeClient> {
        &self.client
    }

    /// Stores an object whose bytes are in memory: at most
    /// [`BUFFERED_BYTES_MAX`](onggi_object_wire::object::BUFFERED_BYTES_MAX), with its tail in the head.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn put_object(
        &self,
        place: &Place,
        put: &Put,
        bytes: Bytes,
    ) -> Result<WriteAnswer, CallError> {
        let call = Call::new(Method::PUT, Resource::Object, put)?.with_body(CallBody::Whole(bytes));
        WriteAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Reserves an object's key for a conditional PUT.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn reserve_object(
        &self,
        place: &Place,
        reserve: &Reserve,
    ) -> Result<WriteAnswer, CallError> {
        let call = Call::new(Method::PUT, Resource::Reservation, reserve)?;
        WriteAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Gives a reservation up.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn release_object(
        &self,
        place: &Place,
        release: &Release,
    ) -> Result<WriteAnswer, CallError> {
        let call = Call::new(Method::DELETE, Resource::Reservation, release)?;
        WriteAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Begins to store an object whose bytes will come, and whose hashes the sender will tell.
    ///
    /// # Errors
    /// When the head is too long to send.
    pub fn begin_put_object(&self, place: &Place, put: &Put) -> Result<HashedPut, CallError> {
        self.begin(place, Resource::Object, put, true)
            .map(HashedPut)
    }

    /// Begins any PUT with a streamed body.
    ///
    /// # Errors
    /// When the head is too long to send.
    pub fn stream<H: Serialize>(
        &self,
        place: &Place,
        resource: Resource,
        head: &H,
    ) -> Result<PutStream, CallError> {
        self.begin(place, resource, head, false)
    }

    fn begin<H: Serialize>(
        &self,
        place: &Place,
        resource: Resource,
        head: &H,
        is_hashed: bool,
    ) -> Result<PutStream, CallError> {
        let (pieces, receiver) = mpsc::channel(PIECES_MAX);
        let body = CallBody::Stream {
            pieces: receiver,
            is_hashed,
        };
        let call = Call::new(Method::PUT, resource, head)?.with_body(body);
        let (client, place) = (Arc::clone(&self.client), place.clone());
        let address = place.address.clone();
        let answer = tokio::spawn(async move { client.call(&place, call).await });
        let (idle_max, answer_max) = (self.timeouts.body_idle, self.timeouts.answer);
        Ok(PutStream {
            pieces,
            answer,
            address,
            idle_max,
            answer_max,
        })
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get_object(&self, place: &Place, get: &Get) -> Result<GetAnswer, CallError> {
        let call = Call::new(Method::GET, Resource::Object, get)?;
        GetAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Reads what is known about an object.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn head_object(&self, place: &Place, get: &Get) -> Result<GetAnswer, CallError> {
        let call = Call::new(Method::HEAD, Resource::Object, get)?;
        GetAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Changes an object's metadata.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post_object(&self, place: &Place, post: &Post) -> Result<WriteAnswer, CallError> {
        let call = Call::new(Method::POST, Resource::Object, post)?;
        WriteAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn delete_object(
        &self,
        place: &Place,
        delete: &Delete,
    ) -> Result<WriteAnswer, CallError> {
        let call = Call::new(Method::DELETE, Resource::Object, delete)?;
        WriteAnswer::from_answer(self.client.call(place, call).await?).await
    }

    async fn roster<H: Serialize>(
        &self,
        place: &Place,
        method: Method,
        resource: Resource,
        head: &H,
    ) -> Result<ContainerAnswer, CallError> {
        let call = Call::new(method, resource, head)?;
        ContainerAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Makes a container, or changes its metadata.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn put_container(
        &self,
        place: &Place,
        put: &container::Put,
    ) -> Result<ContainerAnswer, CallError> {
        self.roster(place, Method::PUT, Resource::Container, put)
            .await
    }

    /// Changes a container's metadata.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post_container(
        &self,
        place: &Place,
        post: &container::Post,
    ) -> Result<ContainerAnswer, CallError> {
        self.roster(place, Method::POST, Resource::Container, post)
            .await
    }

    /// Deletes a container.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn delete_container(
        &self,
        place: &Place,
        delete: &container::Delete,
    ) -> Result<ContainerAnswer, CallError> {
        self.roster(place, Method::DELETE, Resource::Container, delete)
            .await
    }

    /// Reads a container's totals and metadata.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn head_container(
        &self,
        place: &Place,
        head: &container::Head,
    ) -> Result<InfoAnswer<ContainerInfo>, CallError> {
        let call = Call::new(Method::HEAD, Resource::Container, head)?;
        InfoAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Lists a container.
    ///
    /// # Errors
    /// When no answer comes, or a malformed one.
    pub async fn list_container(
        &self,
        place: &Place,
        list: &container::List,
    ) -> Result<ListAnswer<ContainerInfo, ObjectEntry>, CallError> {
        let call = Call::new(Method::GET, Resource::Container, list)?;
        let answer = self.client.call(place, call).await?;
        ListAnswer::from_answer(answer).await
    }

    /// Makes an account, or changes its metadata.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn put_account(
        &self,
        place: &Place,
        put: &account::Put,
    ) -> Result<ContainerAnswer, CallError> {
        self.roster(place, Method::PUT, Resource::Account, put)
            .await
    }

    /// Changes an account's metadata.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post_account(
        &self,
        place: &Place,
        post: &account::Post,
    ) -> Result<ContainerAnswer, CallError> {
        self.roster(place, Method::POST, Resource::Account, post)
            .await
    }

    /// Deletes an account.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn delete_account(
        &self,
        place: &Place,
        delete: &account::Delete,
    ) -> Result<ContainerAnswer, CallError> {
        self.roster(place, Method::DELETE, Resource::Account, delete)
            .await
    }

    /// Reads an account's totals and metadata.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn head_account(
        &self,
        place: &Place,
        head: &account::Head,
    ) -> Result<InfoAnswer<AccountInfo>, CallError> {
        let call = Call::new(Method::HEAD, Resource::Account, head)?;
        InfoAnswer::from_answer(self.client.call(place, call).await?).await
    }

    /// Lists an account.
    ///
    /// # Errors
    /// When no answer comes, or a malformed one.
    pub async fn list_account(
        &self,
        place: &Place,
        list: &account::List,
    ) -> Result<ListAnswer<AccountInfo, AccountEntry>, CallError> {
        let call = Call::new(Method::GET, Resource::Account, list)?;
        let answer = self.client.call(place, call).await?;
        ListAnswer::from_answer(answer).await
    }

    /// Tells a container about its objects. False when it is not there.
    ///
    /// # Errors
    /// When no answer comes, or the node could not store them.
    pub async fn post_object_records(
        &self,
        place: &Place,
        head: &container::Rows,
        records: &[ObjectRecord],
    ) -> Result<bool, CallError> {
        let call = Call::new(Method::POST, Resource::ContainerRows, head)?;
        self.records(place, call, rows::encode_all(records)).await
    }

    /// Tells an account about its containers. False when it is not there.
    ///
    /// # Errors
    /// When no answer comes, or the node could not store them.
    pub async fn post_container_records(
        &self,
        place: &Place,
        head: &account::Rows,
        records: &[CountedContainer],
    ) -> Result<bool, CallError> {
        let call = Call::new(Method::POST, Resource::AccountRows, head)?;
        self.records(place, call, rows::encode_all(records)).await
    }

    async fn records(&self, place: &Place, call: Call, body: Vec<u8>) -> Result<bool, CallError> {
        let call = call.with_body(CallBody::Whole(body.into()));
        let answer = self.client.call(place, call).await?;
        let status = answer.status;
        drop(answer.bytes(1 << 16).await);
        match status {
            StatusCode::ACCEPTED => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(CallError::Malformed {
                detail: format!("{place} answered {status}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests;

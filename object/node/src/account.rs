//! Accounts: PUT, POST, DELETE, HEAD, listings, and records of their containers.

use crate::respond;
use crate::rosters;
use crate::server::Call;
use http::StatusCode;
use onggi_common_service::http::Response;
use onggi_object_device::roster::Decision;
use onggi_object_device::{Change, RosterRow};
use onggi_object_wire::account::{Delete, Head, List, Post, Put, Rows};
use onggi_object_wire::container::{ROWS_BYTES_MAX, ROWS_MAX};
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::rows;

impl Call<'_> {
    pub(crate) async fn put_account(self) -> Result<Response, Response> {
        let Put {
            account,
            timestamp,
            metadata,
        } = self.head()?;
        self.body.none().await?;
        if self.node.is_ahead(timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let key = self.node.account_key(&account);
        let blank = RosterRow::new(account, None);
        let changed = rosters::change(&self.disk, key, blank, move |row| {
            if row.exists() {
                // Its stamp stays: a change of metadata that a replica takes late must not undo a deletion.
                row.change_metadata(&metadata);
                return Decision::Write;
            }
            if row.is_deleted() {
                return Decision::Leave;
            }
            rosters::put(row, timestamp, &metadata)
        })
        .await?;
        Ok(respond::status(if changed.after.is_deleted() {
            StatusCode::FORBIDDEN
        } else if changed.was_there() {
            StatusCode::ACCEPTED
        } else {
            StatusCode::CREATED
        }))
    }

    pub(crate) async fn post_account(self) -> Result<Response, Response> {
        let Post { account, metadata } = self.head()?;
        self.body.none().await?;
        let key = self.node.account_key(&account);
        let blank = RosterRow::new(account, None);
        let changed = rosters::change(&self.disk, key, blank, move |row| {
            rosters::post(row, &metadata)
        })
        .await?;
        let code = if changed.was_there() {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::NOT_FOUND
        };
        Ok(respond::status(code))
    }

    pub(crate) async fn delete_account(self) -> Result<Response, Response> {
        let Delete { account, timestamp } = self.head()?;
        self.body.none().await?;
        if self.node.is_ahead(timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let key = self.node.account_key(&account);
        let blank = RosterRow::new(account, None);
        let changed = rosters::change(&self.disk, key, blank, move |row| {
            // The first deletion says since when it is to be reaped.
            if row.put_timestamp >= timestamp || row.is_deleted() {
                return Decision::Leave;
            }
            row.delete(timestamp);
            Decision::Write
        })
        .await?;
        Ok(respond::status(if changed.after.exists() {
            StatusCode::CONFLICT
        } else if changed.was_there() {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::NOT_FOUND
        }))
    }

    pub(crate) async fn head_account(self) -> Result<Response, Response> {
        let Head { account } = self.head()?;
        self.body.none().await?;
        rosters::refuse_rejoining(&self.disk)?;
        let row = rosters::row(&self.disk, self.node.account_key(&account)).await?;
        Ok(rosters::info(row.as_ref(), RosterRow::account_info))
    }

    pub(crate) async fn list_account(self) -> Result<Response, Response> {
        let List { account, query } = self.head()?;
        self.body.none().await?;
        rosters::refuse_rejoining(&self.disk)?;
        let key = self.node.account_key(&account);
        let read = self.disk.call(move |device| {
            let row = device.roster(&key)?;
            let listing = match &row {
                Some(row) if row.exists() => Some(device.list::<CountedContainer>(&key, &query)?),
                Some(_) | None => None,
            };
            Ok((row, listing))
        });
        let read = read
            .await
            .map_err(|error| respond::disk_error("listing", &error))?;
        Ok(match read {
            (Some(row), Some(listing)) => rosters::listing(&row.account_info(), &listing),
            (row, _) => rosters::info(row.as_ref(), RosterRow::account_info),
        })
    }

    pub(crate) async fn container_records(self) -> Result<Response, Response> {
        let head: Rows = self.head()?;
        let key = self.node.account_key(&head.account);
        let body = self.body.whole(ROWS_BYTES_MAX).await?;
        let records = rows::decode_all::<CountedContainer>(&body);
        let records = records.map_err(|error| respond::bad_request(&error))?;
        if records.len() > ROWS_MAX {
            return Err(respond::bad_request(&"too many records"));
        }
        let known = head.known;
        rosters::take_records(
            &self.disk,
            Change::ContainerRecords {
                key,
                records,
                known,
            },
        )
        .await
    }
}

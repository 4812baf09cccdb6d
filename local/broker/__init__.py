"""Knative's Broker contract on one machine: durable, with Triggers, retries and dead letters."""

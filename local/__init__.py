"""The whole relay on one machine; nothing in here is deployed."""

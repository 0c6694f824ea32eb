"""What several ranks cost: measured here, and a model of it for more ranks than there are here."""

"""What is migrated: RAM blocks and devices."""

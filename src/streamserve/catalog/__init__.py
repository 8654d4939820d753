"""The chains of a team: their record and their discovery."""

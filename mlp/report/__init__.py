"""What a study's page shows: reduced to numbers first, drawn after."""

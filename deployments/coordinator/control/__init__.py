"""How deep to look ahead, decided from what is measured."""

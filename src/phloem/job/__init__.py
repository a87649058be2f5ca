"""The main job, `phloem build`: runs a recipe, keeps its record, resumes it, compares it."""

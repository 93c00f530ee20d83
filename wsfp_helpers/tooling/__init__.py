"""Commands around the course: ablations, tables, results, doctor, verify."""

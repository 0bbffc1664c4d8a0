from backend.captioning.judgement import Judgement, teach_alone


def judgement(rows: int = 30, *, is_open: bool = True, is_apart: bool = True) -> Judgement:
    return Judgement(generation=rows, rows=rows, is_open=is_open, limit=0.4, is_apart=is_apart)


def test_the_memory_teaches_a_project_whose_fields_are_all_open_and_of_a_kind_of_their_own() -> None:
    assert teach_alone([judgement()])
    assert teach_alone([judgement(), judgement(8)])
    assert not teach_alone([judgement(), judgement(is_open=False)])
    assert not teach_alone([judgement(), judgement(is_apart=False)])


def test_a_field_without_corrections_does_not_count() -> None:
    assert teach_alone([judgement(), judgement(0, is_open=False)])
    assert not teach_alone([judgement(0)])
    assert not teach_alone([])
